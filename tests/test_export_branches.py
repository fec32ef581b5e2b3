"""One archive that decides inside itself for one image: as grouped inference, weights once."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from routed_points import exit_point, pictures, routed_point

from bench.core.errors import UserError
from bench.export.branches import ROUTES, load_branches, write_branches
from bench.export.windows import stored_once
from bench.points import OperatingPoint


class Written(NamedTuple):
    """A point and its archive."""

    point: OperatingPoint
    path: Path


@pytest.fixture(scope="module", params=["ds_mobilenet_micro8", "ds_vit_micro8", "exits"])
def written(request, tmp_path_factory) -> Written:
    point = exit_point() if request.param == "exits" else routed_point(request.param)
    path = tmp_path_factory.mktemp("branches") / "net.pt2"
    write_branches(path, point, pictures(1), {"point": point.name})
    return Written(point, path)


@pytest.mark.slow
@torch.no_grad()
def test_the_archive_is_grouped_inference_of_one_image(written):
    x = pictures(24)
    output, route = load_branches(written.path)(x)
    wanted = written.point(x)
    assert torch.equal(route, wanted.route)
    assert len(route.unique(dim=0)) > 1
    torch.testing.assert_close(output, wanted.output, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_stand_once(written):
    """No tensor of the archive is, or is cut out of, another one, and they are less than those of all parts."""
    program = torch.export.load(written.path)
    stored = {name: tensor.numpy() for name, tensor in {**program.state_dict, **program.constants}.items()}
    assert {name: window.stored for name, window in stored_once(stored).items()} == {name: name for name in stored}
    parts = sum(tensor.nbytes for part in written.point.parts() for tensor in part.network.state_dict().values())
    assert sum(tensor.nbytes for tensor in stored.values()) < parts


@pytest.mark.slow
def test_the_archive_names_no_path_of_this_machine(written):
    with zipfile.ZipFile(written.path) as archive:
        assert not any(
            str(Path(torch.__file__).parents[1]).encode() in archive.read(name) for name in archive.namelist()
        )


def test_more_routes_than_branches_can_hold_are_one_sentence(tmp_path):
    point = routed_point("ds_vit_micro8", None)
    with pytest.raises(UserError, match=f"has 256 routes, and a pt2 archive repeats .* at most {ROUTES}"):
        write_branches(tmp_path / "net.pt2", point, pictures(1), {})
    assert list(tmp_path.iterdir()) == []
