"""The findings about machines and models: code, when it is raised, what was expected, what to do."""

from __future__ import annotations

SETUP_ROWS = (
    # Software
    ("E-ENV-PYTHON", "Python is too old", "Python 3.11 or newer", "make an environment with a newer Python"),
    ("E-ENV-PACKAGE", "a required package is missing", "the package", "pip install {hint}"),
    (
        "E-ENV-NNUNET",
        "nnU-Net is missing or of a version this plugin was not made for",
        "nnunetv2 {hint}",
        "pip install 'nnunetv2>=2.8,<2.9'",
    ),
    (
        "E-ENV-TORCH",
        "PyTorch 2.9, which nnU-Net excludes (its mixed-precision 3-D convolutions are several times slower)",
        "another version",
        "pip install 'torch!=2.9.*'",
    ),
    # Folders and variables
    (
        "E-ENV-PATH",
        "a folder variable of nnU-Net is not set, or its folder is missing or cannot be written",
        "a folder",
        "{hint}",
    ),
    (
        "W-ENV-PATH",
        "as E-ENV-PATH, where what was asked for does not need the folder",
        "a folder, for planning and training",
        "{hint}",
    ),
    (
        "E-ENV-EXTTRAINER",
        "nnUNet_extTrainer does not lead to the trainers of this plugin",
        "the folder {hint}",
        'eval "$(nnUNetv2_spine_env)"',
    ),
    (
        "W-ENV-EXTTRAINER",
        "nnUNet_extTrainer is not set (needed by stock commands only), or names a folder that is missing",
        "the folder {hint}",
        'eval "$(nnUNetv2_spine_env)"',
    ),
    (
        "E-ENV-TRAINERPATH",
        "the folder of the trainers has a path that nnUNet_extTrainer cannot hold",
        "a path without {hint}",
        "install the package elsewhere",
    ),
    # Machine
    (
        "W-ENV-DISK",
        "little free disk space",
        "10 GB or more for preprocessed data and results",
        "free some space, or point the variable elsewhere",
    ),
    (
        "E-ENV-TEMP",
        "there is no folder for temporary files",
        "a folder that can be written",
        "set TMPDIR to one",
    ),
    (
        "W-ENV-MEMORY",
        "little free memory",
        "4 GB or more",
        "close other programs, raise the limit of the container, or use -npp 1 -nps 1 and nnUNet_def_n_proc=1",
    ),
    (
        "W-ENV-SHM",
        "little shared memory, through which training workers hand over batches",
        "1 GB or more in /dev/shm",
        "docker run --ipc=host or --shm-size=8g; else train with nnUNet_n_proc_DA=0",
    ),
    (
        "W-ENV-DEVICE",
        "there is an NVIDIA driver, but PyTorch sees no GPU",
        "a PyTorch that fits the driver",
        "install PyTorch as https://pytorch.org/get-started says for this driver",
    ),
    # nnU-Net's own lookup
    (
        "E-ENV-TRAINER",
        "nnU-Net does not find a trainer, or one that does not survive pickling",
        "a class that nnU-Net finds",
        "{hint}",
    ),
    (
        "E-ENV-PROBE",
        "nnU-Net cannot be imported in a fresh process",
        "an import without an error",
        "repair the installation; the last line names the cause",
    ),
    # Models
    ("E-MODEL-FOLDER", "no model folder, or one that is not complete", "{hint}", "copy the whole folder"),
    ("E-MODEL-JSON", "plans.json or dataset.json lacks what nnU-Net needs", "{hint}", "copy the file again"),
    (
        "E-MODEL-FOLD",
        "a fold without a checkpoint",
        "checkpoint_final.pth",
        "finish the training, copy the file, or choose other folds (-f)",
    ),
    (
        "W-MODEL-UNFINISHED",
        "a fold whose training was not finished",
        "checkpoint_final.pth",
        "finish it with nnUNetv2_train … --c, or predict with -chk {hint}",
    ),
    (
        "E-MODEL-CHECKPOINT",
        "a checkpoint that is damaged, holds no model, or does not belong to the plans",
        "{hint}",
        "copy it again, with the plans.json of the same training",
    ),
    (
        "E-MODEL-TRAINER",
        "the model was trained by a trainer that nnU-Net does not find here",
        "a trainer that nnU-Net finds",
        "install the package that has it and add its folder of trainers to nnUNet_extTrainer",
    ),
    (
        "E-MODEL-SETTINGS",
        "spine_ext settings that this version does not understand",
        "a mapping of version 1",
        "update this package, or plan and train again",
    ),
    (
        "W-MODEL-SIDES",
        "classes with sides, but left and right may be mixed up in prediction",
        "{hint}",
        "predict with --tta none, or train with nnUNetTrainerSpine on a dataset made by nnUNetv2_spine_convert",
    ),
)
