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


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


def extra_state():
    return ExtraState(2, 3)


def sparse():
    net = nn.Linear(2, 3)
    net.register_buffer("eye", torch.eye(2).to_sparse())
    return net


@pytest.mark.parametrize(("factory", "name"), [(extra_state, "_extra_state"), (sparse, "eye")])
def test_what_cannot_be_saved_as_tensors_is_refused(factory, name):
    with pytest.raises(AktError, match=f"{name} is no dense tensor: leave it out"):
        call_factory(f"{__name__}:{factory.__name__}")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_weights_without_numbers_and_files_with_another_s_name(tmp_path):
    net, path = nn.Linear(2, 3), tmp_path / "w.safetensors"
    torch.save(net.state_dict(), path)
    assert load_weights(nn.Linear(2, 3), path) == []
    for change, word in ((torch.Tensor.to_sparse, "sparse"), (lambda t: t.to("meta"), "empty")):
        torch.save({"weight": change(net.weight.detach()), "bias": net.bias.detach()}, path)
        with pytest.raises(AktError, match=f"weight is {word}: save it dense"):
            load_weights(net, path)


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
