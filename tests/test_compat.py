"""torchvision by utils.system.compat: quick, and whole once something else of it is used."""

import pickle
import subprocess
import sys

import pytest

from tests.builders import ROOT

LIGHT = "import sys; from utils.system import compat; assert 'torch._dynamo' not in sys.modules"


def python(lines: str) -> None:
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_scripts_start_without_torch_dynamo() -> None:
    python("import sys, test, train, models.run; assert 'torch._dynamo' not in sys.modules")


@pytest.mark.parametrize(
    "use",
    [
        "import torchvision; assert torchvision.__version__.count('.') == 2 and torchvision.models.vgg19",
        "from torchvision import models, transforms; assert models.vgg19 and transforms is compat.transforms",
        "import torchvision.models as models; assert models.vgg19",
        "import torchvision; torchvision.ops.nms; from torchvision import transforms; transforms.Resize",
        "import torchvision; assert not hasattr(torchvision, 'nothing') and torchvision.__path__",
    ],
)
def test_the_rest_of_torchvision_comes_when_it_is_used(use: str) -> None:
    python(f"{LIGHT}; {use}; assert 'torch._dynamo' in sys.modules")


def test_it_may_have_been_imported_before() -> None:
    python(
        "import torchvision as t; from utils.system import compat; assert compat.transforms is t.transforms"
    )


def test_a_transform_is_unpickled_without_the_rest() -> None:
    from utils.system.compat import transforms

    text = pickle.dumps(transforms.Resize((3, 5))).hex()
    load = f"import pickle; each = pickle.loads(bytes.fromhex('{text}')); assert each.size == (3, 5)"
    python(f"{LIGHT}; {load}; assert 'torch._dynamo' not in sys.modules")
