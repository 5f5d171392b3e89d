# Reference values of metrics by other people's implementations. Their packages pin and downgrade what nnU-Net needs,
# so each has an environment of its own; only numbers get back (tests/fixtures/oracle_metrics.json).
# With NNUNET_SPINE_TEST_DATA=DIR the real pairs are computed too, else their stored numbers stay.

ORACLES := .oracles
ORACLE_SCRIPT := tests/oracles/make_metrics.py
ORACLE_FIXTURE := tests/fixtures/oracle_metrics.json
ORACLE_DATA := $(if $(NNUNET_SPINE_TEST_DATA),--data "$(NNUNET_SPINE_TEST_DATA)")

.PHONY: oracles
oracles: $(ORACLES)/panoptica/.installed $(ORACLES)/surface-distance/.installed $(ORACLES)/statistics/.installed $(ORACLES)/pyradiomics/.installed ## compute reference values again
	$(ORACLES)/panoptica/bin/python $(ORACLE_SCRIPT) --oracle panoptica $(ORACLE_DATA) --fixture $(ORACLE_FIXTURE)
	$(ORACLES)/surface-distance/bin/python -W ignore $(ORACLE_SCRIPT) --oracle surface-distance $(ORACLE_DATA) \
	    --fixture $(ORACLE_FIXTURE)
	$(ORACLES)/statistics/bin/python tests/oracles/make_statistics.py --fixture tests/fixtures/oracle_statistics.json
	$(ORACLES)/pyradiomics/bin/python tests/oracles/make_radiomics.py $(ORACLE_DATA) \
	    --fixture tests/fixtures/oracle_radiomics.json

$(ORACLES)/panoptica/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/panoptica
	$(ORACLES)/panoptica/bin/pip install --disable-pip-version-check -q panoptica==2.1.7 nibabel
	@touch $@

$(ORACLES)/statistics/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/statistics
	$(ORACLES)/statistics/bin/pip install --disable-pip-version-check -q \
	    statsmodels==0.15.0 pingouin==0.7.0 pandas==3.1.1 scipy==1.17.1 numpy==2.4.6
	@touch $@

# pyradiomics itself cannot be installed beside numpy 2; this fork is built from source, which needs a C compiler.
$(ORACLES)/pyradiomics/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/pyradiomics
	$(ORACLES)/pyradiomics/bin/pip install --disable-pip-version-check -q pyradiomics-bhklab==3.1.4 numpy==2.4.6 nibabel
	@touch $@

# surface-distance 0.1 uses names that numpy 1.24, numpy 2 and scipy 1.15 removed; these pins have wheels up to Python 3.11.
$(ORACLES)/surface-distance/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/surface-distance
	$(ORACLES)/surface-distance/bin/pip install --disable-pip-version-check -q \
	    Surface-Distance-Based-Measures==0.1 numpy==1.23.5 scipy==1.10.1 nibabel==5.2.1
	@touch $@

# Augmentation by other people, to compare with and to convert configurations from. Several GB each, and never needed by
# `make oracles`. A configuration that AugLab shipped only in its repository: tests/oracles/make_peer_configs.py says where.
.PHONY: peers
peers: $(ORACLES)/smauglab/.installed $(ORACLES)/auglab/.installed ## install SmaugLab and AugLab to compare with (12 GB)

$(ORACLES)/smauglab/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/smauglab
	$(ORACLES)/smauglab/bin/pip install --disable-pip-version-check -q 'smauglab[nnunetv2]==2.0.0'
	@touch $@

# AugLab names no version of kornia, and uses names that 0.8.3 removed; it imports torchvision and torchio and asks for neither.
$(ORACLES)/auglab/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/auglab
	$(ORACLES)/auglab/bin/pip install --disable-pip-version-check -q auglab==20260109 kornia==0.8.2 torchvision 'torchio<2'
	@touch $@

# The instance phase by the authors of SPINEPS, for benchmarks/instances.py. PyTorch is that of .venv, so pip downloads it once.
.PHONY: spineps
spineps: $(ORACLES)/spineps/.installed ## install SPINEPS to compare the instance phase with (6 GB)

$(ORACLES)/spineps/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/spineps
	$(ORACLES)/spineps/bin/pip install --disable-pip-version-check -q spineps==2.1.3 torch==2.14.1 nnunetv2==2.8.1
	@touch $@

# Histogram matching by other people, for benchmarks/matching.py. PyTorch is that of .venv, so pip downloads it once.
.PHONY: matching-peers
matching-peers: $(ORACLES)/matching/.installed ## install torchio and intensity-normalization to compare matching with (6 GB)

$(ORACLES)/matching/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/matching
	$(ORACLES)/matching/bin/pip install --disable-pip-version-check -q intensity-normalization==3.0.1 torchio==1.2.1 torch==2.14.1
	@touch $@

# segmentation-models-pytorch: parameters of the networks in table 2 of Kim et al. (2024), built by our own code.
# PyTorch is that of .venv, so pip downloads it once.
.PHONY: smp
smp: $(ORACLES)/smp/.installed ## install segmentation-models-pytorch and count the parameters of its networks (6 GB)
	PYTHONPATH=. $(ORACLES)/smp/bin/python tests/oracles/make_smp.py --fixture tests/fixtures/oracle_smp.json

$(ORACLES)/smp/.installed: oracles.mk
	$(PYTHON) -m venv $(ORACLES)/smp
	$(ORACLES)/smp/bin/pip install --disable-pip-version-check -q \
	    segmentation-models-pytorch==0.6.0 torch==2.14.1 torchvision==0.29.1
	@touch $@
