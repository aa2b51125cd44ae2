"""Which images are looked at."""

from app.domain.subsets import evaluated_split, looks


def test_subsets_double_up_to_all_images():
    assert looks(400) == (128, 256, 400)
    assert looks(5000) == (128, 256, 512, 1024, 2048, 5000)
    assert looks(192) == (192,)
    assert looks(193) == (128, 193)
    assert looks(10) == (10,)
    assert looks(300, first=100) == (100, 300)
    assert looks(2000, classes=100) == (800, 2000)
    assert looks(1000, classes=100) == (1000,)


def test_a_test_split_beside_another_stays_unseen():
    assert evaluated_split({"train", "validation", "test"}) == "train"
    assert evaluated_split({"validation", "test"}) == "validation"
    assert evaluated_split({"test"}) is None
