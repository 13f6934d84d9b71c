import pytest

from thinkrl.config.component import ConfigError
from thinkrl.parallel.place import Place, find_place, first_host

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip


def test_a_process_that_nobody_launched_has_no_place():
    assert find_place({"PATH": "/bin"}) is None


def test_torchrun_and_deepspeed_say_it_in_these_words():
    assert find_place(TORCHRUN) == Place(5, 16, 1, "node0", 29500)


def test_the_words_of_a_place_are_read_back():
    place = Place(3, 4, 3, "127.0.0.1", 1234)
    assert find_place(place.environment()) == place


def test_srun_gives_rank_and_size_and_the_first_node_answers():
    assert find_place(SRUN) == Place(9, 16, 1, "gpu07", 20_000 + 123456 % 20_000)


def test_an_address_in_the_environment_stands_before_slurm_s():
    assert find_place({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "777"}) == Place(9, 16, 1, "10.0.0.1", 777)


def test_a_batch_script_is_no_rank_though_slurm_numbers_it():
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}
    assert find_place(script) is None
    assert find_place({**script, "SLURM_STEP_NUM_TASKS": "1"}) is None, "srun --pty bash"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_place_is_refused(name):
    with pytest.raises(ConfigError, match=f"RANK is set but {name} is not"):
        find_place({key: value for key, value in TORCHRUN.items() if key != name})


def test_a_rank_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="whole numbers"):
        find_place({**TORCHRUN, "RANK": "first"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu1", "gpu1"), ("gpu[03-05,9]", "gpu03"), ("a1,a2", "a1"), ("rack[2,4],x", "rack2"), ("n-1-[10-12]", "n-1-10")],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_list_without_a_host_is_refused():
    with pytest.raises(ConfigError, match="must name a node"):
        first_host("")
