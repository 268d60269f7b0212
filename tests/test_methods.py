import pytest

from akt_lab.errors import UsageError
from akt_lab.methods import METHODS, get_method

WITH_AKT = [name for name in METHODS if METHODS[name].akt]


@pytest.mark.parametrize("name", WITH_AKT)
def test_akt_changes_nothing_but_the_features(name):
    akt = METHODS[name]
    plain = METHODS[akt.plain]
    assert not plain.akt
    assert akt.image_terms is plain.image_terms
    assert akt.student_terms is plain.student_terms
    assert akt.batch_size == plain.batch_size  # an equal budget


def test_each_is_found_by_its_name_and_what_trains_has_a_partner_with_akt():
    assert all(get_method(name) is method for name, method in METHODS.items())
    assert all(method.name == name for name, method in METHODS.items())
    trained = {m.name for m in METHODS.values() if m.trains and not m.akt}
    assert trained == {METHODS[name].plain for name in WITH_AKT} >= {"gdfq", "adadfq", "hast"}
    assert {m.name for m in METHODS.values() if not m.trains} >= {"ptq", "zeroq"}
    with pytest.raises(UsageError, match="unknown method 'hst': did you mean 'hast'"):
        get_method("hst")


def test_those_that_see_real_images_are_two_and_say_so():
    real = [method for method in METHODS.values() if method.real]
    assert [method.name for method in real] == ["real", "real+akt"]
    for method in real:
        assert "not zero-shot" in method.source
        assert not method.generates
        assert method.student_terms is METHODS["adadfq"].student_terms
