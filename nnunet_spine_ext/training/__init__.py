"""What plugs into nnUNetTrainer."""
