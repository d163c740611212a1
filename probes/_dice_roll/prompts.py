"""What the model is asked. Written down before anything was run."""

from __future__ import annotations

import re
from dataclasses import dataclass

RAW = (
    "I rolled a die and it landed on",
    "She rolled the die and got a",
    "He threw the die, and the number was",
    "We rolled a six-sided die. The result was",
    "The die stopped rolling and showed the number",
    "You roll a fair die. It comes up",
    "After shaking the cup, Tom rolled the die and it showed a",
    "The player rolls a standard six-sided die and gets a",
    "Roll a die. The answer is",
    "It is my turn. I roll the die and it is a",
    "Anna rolled one die on the table and saw the number",
    "The gambler watched as the die came to rest on",
    "A fair six-sided die is rolled once. The outcome is",
    "The child threw the die into the box, and it turned up a",
    "A random roll of the die gives",
    "In the game, the die was rolled and the top face showed",
    "The teacher rolled a die in front of the class and called out the number",
    "On my first throw of the die I got a",
    "The dice bot says: you rolled a",
    "Simulating one roll of a die... the number is",
    "The old man rolled his lucky die and the face read",
    "My die bounced off the wall and came up",
    "To decide who starts, they rolled a die; it landed on the number",
    "He picked up the die, blew on it, and rolled a",
)
NOUNS = ("stone", "ball", "card", "bottle", "barrel", "pencil")  # that stand in place of the die
NULL = (
    "Please read chapter",
    "The number is",
    "For details see section",
    "This is shown in figure",
    "The answer to the question is",
    "Turn to page",
    "The results are listed in table",
    "Repeat this with step",
    "The meeting is in room",
    "She lives in house number",
    "The train leaves from platform",
    "We have reached level",
)
ASKED = (
    "Roll a die.",
    "Roll a six-sided die and tell me the result.",
    "Please roll a die for me. Answer with the number only.",
    "Pretend to roll a fair die. What did you get?",
    "I need a random number from a die. Which one did you roll?",
    "Throw one die and say the number that comes up.",
    "We are playing a board game. It is your turn: roll the die.",
    "Simulate one roll of a standard die.",
)
NUMBER_ASKED = (
    "Write a number.",
    "Please answer with one digit.",
    "How many are there? Answer with the number only.",
    "Which section should I read?",
)
BEGUN = ("I rolled a", "The die shows the number")  # the first words of the model's turn
NUMBER_BEGUN = ("The answer is", "It is number")


@dataclass(frozen=True)
class Range:
    """Another chance device: prompts and the numbers it can give."""

    name: str
    prompts: tuple[str, ...]
    numbers: tuple[int, ...]


OTHERS = (
    Range(
        "1 to 10",
        (
            "A random number from 1 to 10 is",
            "Pick a number between 1 and 10. I pick",
            "I am thinking of a number between one and ten. It is",
            "The computer drew a random number from 1 to 10, and it was",
            "She chose a number from one to ten at random:",
            "Choose any number between 1 and 10. My choice is",
            "The wheel has ten fields, numbered 1 to 10. It stopped at",
            "Out of ten cards, numbered 1 to 10, he drew number",
        ),
        tuple(range(1, 11)),
    ),
    Range(
        "twenty-sided die",
        (
            "I rolled a twenty-sided die and it landed on",
            "The player rolls a d20 and gets a",
            "She threw the 20-sided die, and the number was",
            "Roll a d20. The answer is",
            "The icosahedral die came to rest on the number",
            "A random roll of the twenty-sided die gives",
            "On his first throw of the d20 he got a",
            "You roll a fair d20. It comes up",
        ),
        tuple(range(1, 21)),
    ),
)
COIN = (
    "I flipped a coin and it landed on",
    "She tossed the coin, and the result was",
    "He flipped a fair coin. It came up",
    "The referee tossed the coin and it was",
    "You flip a coin. The answer is",
    "The coin spun on the table and showed",
    "A random coin toss gives",
    "After a long spin the coin came to rest on",
)


def without_die(prompt: str, noun: str) -> str | None:
    """The same sentence about another thing; None where it has no die, or ends in it, so that the last word changes.

    Nothing else changes: a "six-sided die" becomes a "six-sided stone".
    """
    changed = re.sub(r"\b(die|dice)\b", noun, prompt, flags=re.IGNORECASE)
    return None if changed == prompt or changed.endswith(noun) else changed
