import json

import pytest
import torch
from safetensors.torch import load_file

from shared.errors import InvalidArgument
from shared.model.checkpoint import CheckpointError
from shared.model.score import score


def write(path, *requests):
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def assert_near(got, want):
    torch.testing.assert_close(got, want, atol=2e-4, rtol=0)


def test_scores_equal_the_vectors(tiny_dir, tmp_path, vectors, formula_image):
    image = tmp_path / "b.png"
    formula_image(200, 120).save(image)
    requests = write(
        tmp_path / "r.jsonl",
        {"id": "A", "ids": vectors["A.input_ids"].tolist(), "generate": 9},
        {
            "id": "B",
            "ids": vectors["B.prompt_ids"].tolist(),
            "images": [str(image)],
            "generate": 4,
        },
        {"id": "plain", "ids": [1, 501, 3]},
    )
    seen = []
    out = tmp_path / "out.safetensors"
    score(tiny_dir, requests, out, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    got = load_file(out)

    wanted = torch.cat((vectors["A.prefill_logits"], vectors["A.decode_logits"]))
    assert_near(got["A.logits"], wanted)
    for name in "AB":
        assert torch.equal(got[f"{name}.generated_ids"], vectors[f"{name}.generated_ids"])
    assert torch.equal(got["A.expanded_ids"], vectors["A.input_ids"])
    assert torch.equal(got["B.expanded_ids"], vectors["B.expanded_ids"])
    assert_near(got["B.image_features.0"], vectors["B.projector.0"])
    assert_near(got["B.crop_features.0"], vectors["B.projector.1"])
    assert got["B.logits"].shape == (343 + 3, 512)
    assert_near(got["B.logits"][-4:], vectors["B.last_logits"])
    assert got["plain.logits"].shape == (3, 512)
    assert got["plain.generated_ids"].shape == (0,)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "b.png",
        "out.safetensors",
        "r.jsonl",
    ]


@pytest.mark.parametrize(
    ("request_line", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"request = \[\]: must be a JSON object"),
        ({"ids": [1]}, "id = null: must be"),
        ({"id": "", "ids": [1]}, 'id = "": must be'),
        ({"id": "a"}, "ids = null: must be a list of at least one"),
        ({"id": "a", "ids": []}, r"ids = \[\]: must be"),
        ({"id": "a", "ids": [1, 512]}, r"ids\[1\] = 512: must be a token id of 0\.\.511"),
        ({"id": "a", "ids": [True]}, r"ids\[0\] = true"),
        ({"id": "a", "ids": [1.5]}, r"ids\[0\] = 1\.5"),
        ({"id": "a", "ids": [1], "images": "x.png"}, 'images = "x.png": must be a list'),
        (
            {"id": "a", "ids": [1], "images": ["x"]},
            r'images = \["x"\]: must be one path for each of the 0 image tokens',
        ),
        ({"id": "a", "ids": [501], "images": ["x", "y"]}, "images = .*one path for each of the 1"),
        ({"id": "a", "ids": [1], "generate": -1}, "generate = -1: must be a whole number"),
        ({"id": "a", "ids": [1], "top_k": 5}, "top_k = 5: must be left out"),
        ({"id": "good", "ids": [1]}, 'id = "good": must be different'),
    ],
)
def test_bad_lines_name_line_field_and_value(tiny_dir, tmp_path, request_line, message):
    text = request_line if isinstance(request_line, str) else json.dumps(request_line)
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "good", "ids": [1]}\n\n' + text + "\n")
    with pytest.raises(InvalidArgument, match=r"r\.jsonl, line 3: " + message) as caught:
        score(tiny_dir, path, tmp_path / "out.safetensors")
    assert caught.value.reason == "REQUEST_INVALID"
    assert not (tmp_path / "out.safetensors").exists()


def test_other_failures(tiny_dir, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(InvalidArgument, match="cannot be read"):
        score(tiny_dir, tmp_path / "none.jsonl", out)
    requests = write(tmp_path / "r.jsonl", {"id": "a", "ids": [501], "images": ["/no/such.png"]})
    with pytest.raises(InvalidArgument, match=r"request 'a', images\[0\] = '/no/such\.png'"):
        score(tiny_dir, requests, out)
    with pytest.raises(InvalidArgument, match="its folder does not exist"):
        score(tiny_dir, requests, tmp_path / "none" / "out.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        score(tmp_path / "nowhere", requests, out)
    write(requests, {"id": "a", "ids": [1], "generate": 2048})
    with pytest.raises(InvalidArgument, match=r"generate = 2048 exceed the model's context"):
        score(tiny_dir, requests, out)
