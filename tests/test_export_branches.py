"""One archive that decides inside itself for one image: as grouped inference, weights once."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from routed_points import exit_point, pictures, routed_point

from bench.core.errors import UserError
from bench.export.branches import ROUTES, load_branches, write_branches
from bench.points import OperatingPoint, RoutedPoint
from bench.slicing.extract import extract, parameters_of


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
    if not isinstance(written.point, RoutedPoint):
        pytest.skip("parts of a network with exits share no weights")
    point = written.point
    widest = extract(point.supernet, point.supernet.space.routed([options[-1] for options in point.routing]))
    kept = sum(entry.file_size for entry in zipfile.ZipFile(written.path).infolist() if "/weights/" in entry.filename)
    beside = 4 * sum(tensor.numel() for tensor in (*point.gates.parameters(), *point.supernet.buffers()))
    assert kept <= 1.1 * (4 * parameters_of(widest) + 2 * beside)  # small tensors are not sliced


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
