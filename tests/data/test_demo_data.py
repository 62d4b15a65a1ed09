"""The committed data sets of the demo and of its studies are what their script writes."""

from pathlib import Path

import pytest

from tests.support.demo.write_data import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("options", "folder", "names"),
    [
        ([], "local/demo", {"careless", "demonstrations", "held_out", "prompts"}),
        (["--carries"], "study/carries", {"demonstrations", "few_demonstrations", "held_out"}),
        (["--levels"], "study/levels", {"held_out"}),
    ],
)
def test_the_script_writes_the_committed_data(
    tmp_path: Path, options: list[str], folder: str, names: set[str]
) -> None:
    main(["--out", str(tmp_path), *options])
    assert {path.stem for path in tmp_path.iterdir()} == names
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (CONFIGS / folder / path.name).read_bytes(), path.name
