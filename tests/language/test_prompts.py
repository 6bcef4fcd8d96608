"""Prompts in chat templates of many kinds: no message is lost, and what cannot be written is refused in one line."""

from __future__ import annotations

import pytest
from tiny_models import byte_tokenizer

from helpers.language.prompts import prompt_tokens

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] | trim }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SILENT = (  # drops a system message without a word
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)
PARTS = (  # a text would be gone through letter by letter, and nothing written
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS_WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PARTS
CONCATENATED = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"  # a list cannot be added
SYSTEM, USER, ASSISTANT = ("system", "Be brief."), ("user", "Name a colour."), ("assistant", "Red")


def written(template: str, *messages) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer.decode(prompt_tokens(tokenizer, messages))


@pytest.mark.parametrize("template", [GEMMA, SILENT, PARTS, PARTS_WITHOUT_SYSTEM, CONCATENATED])
def test_every_message_is_written_in_order_and_once(template):
    text = written(template, SYSTEM, USER, ASSISTANT, ("user", "Another."))
    places = [text.index(content) for _, content in (SYSTEM, USER, ASSISTANT, ("user", "Another."))]
    assert places == sorted(places)
    assert text.count("Be brief.") == 1


def test_without_a_system_role_its_text_stands_before_the_first_user_message():
    assert written(GEMMA, SYSTEM, USER) == "<user>Be brief.\n\nName a colour.</><assistant>"
    assert written(SILENT, SYSTEM, USER) == "[INST] Be brief.\n\nName a colour. [/INST]"
    assert written(GEMMA, SYSTEM) == "<user>Be brief.</><assistant>"
    assert written(GEMMA, SYSTEM, USER, ASSISTANT) == "<user>Be brief.\n\nName a colour.</><assistant>Red"


def test_a_short_system_text_inside_the_question_is_not_lost():
    assert written(SILENT, ("system", "colour"), USER) == "[INST] colour\n\nName a colour. [/INST]"


def test_roles_that_must_alternate():
    two = written(GEMMA, ("user", "One."), ("user", "Two."))
    assert two == "<user>One.\n\nTwo.</><assistant>"
    assert written(GEMMA, SYSTEM, ("user", "One."), ("user", "Two.")).startswith("<user>Be brief.\n\nOne.\n\nTwo.</>")


def test_a_template_with_a_system_role_gets_the_messages_as_they_are():
    assert (
        written(byte_tokenizer().chat_template, SYSTEM, USER) == "<system>Be brief.\n<user>Name a colour.\n<assistant>"
    )


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        ("{% for m in messages %}{{ m.content }}", (USER,), r"of user \(.*\): use"),  # a syntax error
        ("{{ messages.nonsense.more }}", (USER,), "prompt of user"),
        ("{{ bos_token }}", (SYSTEM, USER), r"of system, user \(it leaves out a message\)"),
        (GEMMA, (ASSISTANT,), "must alternate"),
    ],
)
def test_a_template_that_takes_no_form_is_refused_in_one_line(template, messages, words):
    with pytest.raises(ValueError, match=words) as caught:
        written(template, *messages)
    assert "\n" not in str(caught.value)
