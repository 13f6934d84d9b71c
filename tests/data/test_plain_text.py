"""Plain text for base models: no roles, the response on its own, and one beginning of the sequence."""

from thinkrl.data.plain_text import PlainRenderer
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.prompt import Message

TOKENIZER = TinyModel(tokenizer="character").load_tokenizer()


def test_prompt_newline_response() -> None:
    renderer = PlainRenderer(TOKENIZER)
    ids = renderer.prompt_ids((Message("system", "add"), Message("user", "1+1")))
    response, given = renderer.response_parts("is 2", ((0, 3),), end=False)
    assert TOKENIZER.decode(ids) == "add\n1+1\n"
    assert TOKENIZER.decode(response) == "is 2"
    assert given.tolist() == [True, True, True, False]
    ended, mask = renderer.response_parts("2", (), end=True)
    assert ended.tolist() == [response[-1], TOKENIZER.eos_token_id]
    assert not mask.any()
