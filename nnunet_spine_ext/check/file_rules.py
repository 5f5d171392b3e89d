"""The findings about files: code, when it is raised, what was expected, what to do."""

from __future__ import annotations

_AGAIN = "copy or download the file again"

FILE_ROWS = (
    # The file itself
    ("E-IN-MISSING", "there is no such file", "an image file", "check the path and its spelling{hint}"),
    (
        "E-IN-NOIMAGE",
        "the folder holds no file with the name of an image",
        "files ending in .nii.gz, .nii, .mha, .mhd or .nrrd",
        "check the path",
    ),
    ("E-IN-EMPTY", "the file has no bytes", "an image", _AGAIN),
    (
        "E-IN-TRUNCATED",
        "the file ends before its voxels or its checksum do (ITK would fill the rest with zeros)",
        "all bytes that its header announces",
        _AGAIN,
    ),
    ("E-IN-CRC", "the compressed data are damaged or their checksum is wrong", "intact gzip or zlib data", _AGAIN),
    (
        "W-IN-TRAILING",
        "there are bytes after the end of the image; they are ignored",
        "nothing after the last voxel",
        "compare with the original; write the image anew to get rid of them",
    ),
    (
        "E-IN-FORMAT",
        "the content is no image that is read here",
        "NIfTI-1 (.nii, .nii.gz), MetaImage (.mha, .mhd) or NRRD (.nrrd)",
        "{hint}",
    ),
    (
        "W-IN-SUFFIX",
        "the name does not fit the content; it is read by its content",
        "a name that fits the content",
        "rename it to end in {hint}; some readers of nnU-Net refuse it as it is",
    ),
    ("E-IN-PERMISSION", "the file or its folder may not be read", "read permission", "{hint}"),
    (
        "E-IN-POINTER",
        "a git-annex or git-lfs pointer, or a link to a file that is not there",
        "the image itself",
        "{hint}",
    ),
    ("E-IN-UNREADABLE", "the system or the image library could not read it", "a readable file", "{hint}"),
    # Shape and voxel type
    (
        "W-IN-4D",
        "more than three dimensions, but one volume; it is read as 3-D",
        "a 3-D image",
        "nothing, or save it as 3-D for nnU-Net's own commands",
    ),
    (
        "E-IN-DIM",
        "no single 3-D volume",
        "one 3-D volume",
        "save each volume to a file of its own, for example with fslsplit or nibabel.four_to_three",
    ),
    ("E-IN-2D", "a single slice", "a volume with at least two slices along each axis", "give the whole stack"),
    (
        "E-IN-DTYPE",
        "colour, complex, one-bit or extended-precision voxels",
        "one real number per voxel",
        "save grey values or the magnitude as an integer or 32-bit float type",
    ),
    # Geometry
    (
        "W-GEOM-NOCODE",
        "neither qform nor sform is set; spacing is taken from pixdim and the orientation is assumed",
        "a qform or sform code above 0",
        "set the sform from the original DICOM; until then left and right are not certain",
    ),
    (
        "E-GEOM-CONFLICT",
        "qform and sform place the image differently",
        "the same place within 0.001 mm, or within what single precision can hold",
        "find out which is right, then use --prefer sform or --prefer qform, or copy it over the other",
    ),
    (
        "W-GEOM-PREFER",
        "qform and sform disagree and one was chosen with --prefer",
        "one geometry",
        "write the image with the chosen geometry in both",
    ),
    (
        "W-GEOM-PIXDIM",
        "pixdim disagrees with the voxel size of the sform",
        "equal voxel sizes",
        "write the image anew: nnU-Net's own readers take the spacing from pixdim",
    ),
    (
        "E-GEOM-PIXDIM",
        "a voxel size in the header is zero, negative or not a number",
        "three positive voxel sizes",
        "convert again from DICOM, or set the true voxel size in the header",
    ),
    (
        "E-GEOM-AFFINE",
        "the geometry holds no usable affine",
        "a finite, invertible affine",
        "repair the header (sform, qform, pixdim) or convert again from DICOM",
    ),
    (
        "E-GEOM-SHEAR",
        "the axes are not perpendicular",
        "perpendicular axes (cosine at most 0.0001, what ITK accepts)",
        "{hint}",
    ),
    (
        "E-GEOM-SPACING",
        "a voxel size that no spine scan has",
        "0.05 to 20 mm",
        "correct the voxel size: a factor of 1000 means metre or micrometre, a factor of 10 centimetre",
    ),
    (
        "E-GEOM-UNITS",
        "the header says metre or micrometre",
        "millimetre",
        "set the spatial unit to mm (nibabel: header.set_xyzt_units('mm')) and scale the affine if it is not in mm",
    ),
    # Intensities
    (
        "W-INT-NONFINITE",
        "some voxels are NaN or infinite; in prediction they become 0",
        "finite numbers",
        "find out where they come from",
    ),
    (
        "E-INT-NONFINITE",
        "all voxels are NaN or infinite, or some are in a training image or a mask",
        "finite numbers",
        "correct the file: ITK would silently write 0 into these voxels",
    ),
    ("E-INT-CONSTANT", "all voxels are equal", "an image with contrast", "export or convert the image again{hint}"),
    (
        "W-INT-SCALING",
        "scl_slope or scl_inter that readers treat differently; the stored values are used",
        "scl_slope 1 and scl_inter 0, or a finite slope that is not 0",
        "write the image anew with the values that are meant",
    ),
    (
        "E-INT-SCALING",
        "a valid scl_slope with a scl_inter that is no number",
        "two finite numbers",
        "set scl_inter to 0 or to the value that is meant",
    ),
    (
        "W-INT-SATURATED",
        "many voxels hold the largest value of their type",
        "less than 0.5 % of the voxels at the largest value",
        "export with another scaling or type; detail above this value is lost",
    ),
    (
        "W-INT-MASK",
        "an image with as few values as a mask has",
        "an image, with more than 64 different values",
        "give the image, or the mask as one (nnUNetv2_spine_check: --role label); nothing, where a channel is a mask",
    ),
    # Masks
    ("W-LABEL-EMPTY", "a mask without foreground", "labelled voxels", "label it, or leave the case out"),
    (
        "E-LABEL-VALUE",
        "a mask with fractions, negative numbers or too many different values",
        "whole numbers from 0",
        "round or threshold the mask; an image has to be given as one (nnUNetv2_spine_check: --role image)",
    ),
)
