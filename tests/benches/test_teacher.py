import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from akt_lab.benches.teacher import call_factory, load_weights
from akt_lab.errors import AktError


def test_a_factory_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_net_of_this_test.py").write_text("from torch.nn import ReLU as relu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # what it adds is taken off again
    assert isinstance(call_factory("my_net_of_this_test:relu"), nn.ReLU)


def test_weights_that_do_not_fit(tmp_path):
    net, path = nn.Linear(2, 3), tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}, path)
    with pytest.raises(AktError) as caught:
        load_weights(net, path)
    for part in ("bias is missing", "extra is not in the network", r"weight is (3, 5)", "(3, 2)"):
        assert part in str(caught.value)
    path.write_bytes(b"not tensors at all")
    with pytest.raises(AktError, match="not a whole"):
        load_weights(net, path)
    torch.save(["no", "dict"], tmp_path / "w.pth")
    with pytest.raises(AktError, match=r"holds no state dict: save one by torch\.save"):
        load_weights(net, tmp_path / "w.pth")
