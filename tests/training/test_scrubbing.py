"""What is no secret stays as it is, whatever it is called; what secrets look like: tests/model/test_secrets.py."""

from __future__ import annotations

import pytest

from training.scrubbing import scrub


@pytest.mark.parametrize(
    "code",
    [
        "TOKEN_URL = 'https://oauth2.example.com/v2/token'",
        "TOKEN_TYPE = 'urn:ietf:params:aws:token-type:aws4_request'",
        "RESET_PWD_START = '/resetpassword/v1.0/start'",
        "read(join(pwd, './data/sfc64-testset-1.csv'))",
        "__all__ = ['Tokenizer',\n    'HiggsAudioV2TokenizerModel']",
        "config.has_option('Credentials', 'gs_oauth2_refresh_token')",
        "kinds = {'secret_ref': 'V1LocalObjectReference'}",
        "extra = Token(content='x', token='<|unused_200054|>')",
        "tokenizer (`Qwen2TokenizerFast`): The tokenizer.",
        "connect(password=hashed_password_v1, token=self.tokens[0]) if token=='x1' else None",
        "C = 'Server=db1;Password={password_1_of_many};'",
        "headers = {'Authorization': f'Bearer {access_token_2_of_many}'}",
        "DSN = 'postgres://{user}:{password}@db/app'",
    ],
)
def test_places_identifiers_and_templates_are_no_secrets(code: str) -> None:
    assert scrub(code) == (code, 0)


def test_a_password_that_somebody_made_up_of_words_is_one() -> None:
    made_up = "Summer2024" + "Winter"
    assert scrub(f"password = '{made_up}'") == ("password = 'scrubbed'", 1)
    assert scrub(f"TOKEN_CLASS = '{made_up}'")[1] == 0
