"""What a worker's environment says to glibc: ours beside the user's, and theirs first."""

from holdfast_checkpoint.tunables import with_streamed_copies

OURS = "glibc.cpu.x86_non_temporal_threshold=0x40000"


def test_an_environment_without_tunables_gets_ours_and_keeps_the_rest() -> None:
    assert with_streamed_copies({"PATH": "/bin"}) == {"PATH": "/bin", "GLIBC_TUNABLES": OURS}


def test_other_tunables_stay() -> None:
    given = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

    assert with_streamed_copies(given)["GLIBC_TUNABLES"] == f"glibc.malloc.hugetlb=1:{OURS}"
    assert given == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def test_a_threshold_of_the_users_stays() -> None:
    given = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.cpu.x86_non_temporal_threshold=0x100000"}

    assert with_streamed_copies(given) == given
