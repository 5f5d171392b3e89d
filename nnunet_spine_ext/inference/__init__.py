"""Prediction: our predictor and what lets stock nnUNetv2_predict run our phases."""
