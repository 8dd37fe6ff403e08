"""The lower half of the package needs no Detectron2, and the upper half says what to install."""

import subprocess
import sys

BLOCKED = """
import sys, warnings
sys.modules["detectron2"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import igam_d2
(warning,) = [w for w in caught if "Detectron2 is not installed" in str(w.message)]
assert "make setup" in str(warning.message)
import igam_d2.detections, igam_d2.functional, igam_d2.losses, igam_d2.moments
import igam_d2.report.build_report
assert not [name for name in sys.modules if name.startswith("detectron2.")]
try:
    import igam_d2.modeling
except ImportError as error:
    assert error.name.startswith("detectron2")
else:
    raise AssertionError("igam_d2.modeling was imported without Detectron2")
"""


def test_lower_half_imports_without_detectron2():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True)


def test_everything_is_registered_by_importing_the_package():
    code = """
import igam_d2
from detectron2.data import DatasetCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
ROI_HEADS_REGISTRY.get("IGAMROIHeads")
assert "digits_lt_train" in DatasetCatalog.list()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
