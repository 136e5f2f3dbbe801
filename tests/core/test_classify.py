# ruff: noqa: E501
"""Classify: labelled prompts, half of which tuned the word table and half of which judge it, and the laws of the classifier."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.core.classify import TURN, classify, expected_output, need_of
from waypost.core.intents import TASKS
from waypost.core.types import Call, Task

MEETING = "\n".join(
    f"{who}: I looked at the numbers for week {week} and the delay in {place} is mostly the missing paperwork, so we agreed to call the carrier."
    for week, (who, place) in enumerate([("Ana", "Rotterdam"), ("Ben", "Leipzig"), ("Chi", "Gdansk"), ("Dora", "Porto")] * 6)
)
LEASE = " ".join(
    f"{n}. The tenant shall keep the premises in good repair, pay the rent on the first working day of each month and give notice in writing."
    for n in range(1, 30)
)

# Written by hand before the held-out half was ever scored. Of each task every other prompt was used while tuning the table.
LABELLED: dict[Task, list[str]] = {
    "code": [
        "Write a Python function that removes duplicates from a list while keeping the order.",
        "Why does this throw an undefined error?\n```js\nconst a = items.map(i => i.name.first)\n```",
        "Refactor the following class to use dependency injection.\n\nclass Mailer:\n    def __init__(self):\n        self.smtp = SMTP('localhost')\n    def send(self, m):\n        return self.smtp.send(m)",
        "I get this when I start the server:\nTraceback (most recent call last):\n  File \"app.py\", line 3, in <module>\n    import foo\nModuleNotFoundError: No module named 'foo'",
        "Give me a SQL query that returns the three newest orders per customer.",
        "How do I center a div vertically with CSS flexbox?",
        "Schreibe ein Bash-Skript, das alle Logdateien älter als 30 Tage löscht.",
        "Écris une fonction JavaScript qui vérifie si une chaîne est un palindrome.",
        "Escribe un programa en Java que lea un archivo línea por línea.",
        "写一个Python函数，判断一个数是否为质数。",
        "Translate this Java method to Kotlin:\npublic int add(int a, int b) { return a + b; }",
        "Add unit tests for the parser in src/parser.rs, covering empty input and nested brackets.",
        "My React component re-renders on every keystroke. How can I stop that?",
        "regex for matching an IPv4 address",
        "What does the 'volatile' keyword do in C and when do I need it?",
        "Set up a GitHub Actions workflow that runs pytest on every push.",
        'Exception in thread "main" java.lang.NullPointerException at com.shop.Cart.total(Cart.java:41) what now',
        "implement an LRU cache in Go with O(1) get and put",
    ],
    "summarize": [
        "Summarize the following article in three sentences:\n\nResearchers have found that bees can count to four.",
        "tl;dr please\n\n" + MEETING,
        "Can you give me the key takeaways from this transcript?\n\n" + MEETING,
        "What are the main points of this text?\n\n" + LEASE,
        "Fasse den folgenden Text in zwei Sätzen zusammen: Die Stadt plant einen neuen Radweg entlang des Flusses.",
        "Résume ce texte en cinq lignes : Le conseil municipal a voté hier soir le budget de l'année prochaine.",
        "Resume este artículo en un párrafo: El gobierno anunció ayer nuevas medidas para el transporte.",
        "请用一句话总结下面的文章：昨天，市政府公布了新的地铁规划。",
        "Condense this email thread into a short paragraph for my boss.\n\n> Hi, the shipment is late again.\n> We talked to the carrier.",
        "Write an executive summary of the report below.\n\nRevenue grew 4% while costs fell in all regions but one.",
        "Make this shorter: I wanted to reach out to you in order to let you know that the meeting has been moved.",
        "Boil this down to three bullet points.\n\n" + LEASE,
        "Please provide a brief overview of what was discussed:\n\n" + MEETING,
        "Give me the gist of this paper's abstract: We study attention in small models and find that it degrades gracefully.",
        "Erstelle eine Zusammenfassung des Protokolls.\n\n" + MEETING,
        "Haz un resumen de esta reunión: hablamos del presupuesto y de las vacaciones.",
    ],
    "classify": [
        "Classify this review as positive or negative: 'The battery died after two days.'",
        "Is the following message spam or not spam? 'Congratulations, you won a prize, click here!'",
        "Which category does this support ticket belong to: billing, technical, account? 'I can't log in since Monday.'",
        "Label each sentence with one of: fact, opinion.\n1. The sky is blue. 2. Blue is the best colour.",
        "What is the sentiment of this tweet? 'Can't believe they cancelled the show, so sad'",
        "Klassifiziere die folgende E-Mail als Anfrage, Beschwerde oder Lob: 'Der Kaffee war kalt.'",
        "Classe ce commentaire dans une des catégories suivantes : sport, politique, culture. « Le match fut superbe. »",
        "Clasifica el siguiente texto como positivo, negativo o neutro: 'El servicio fue aceptable.'",
        "判断以下评论是正面还是负面：这家餐厅的服务太差了。",
        "Categorize these expenses into travel, food, office: taxi 12, stapler 5, lunch 9",
        "Decide if the comment is toxic. Answer only yes or no: 'You people are all idiots.'",
        "Assign one of the labels URGENT, NORMAL, LOW to this ticket: 'The whole site is down!'",
        "Does this headline count as clickbait? Reply with one word. 'You won't believe what she did next'",
        "Tag the following article with the topic that fits best (science, sports, business): 'Shares of the chip maker rose 8%.'",
        "Positive, negative or neutral? 'It does what it says.'",
        "Ordne diesen Text einer der Kategorien Technik, Natur, Politik zu: 'Der Wald erholt sich langsam.'",
        "Route this request to the right team (sales, support, legal): 'We'd like to renew our contract for 40 seats.'",
    ],
    "extract": [
        "Extract all email addresses from the text below:\nContact ann@ex.org or bob@ex.org for details.",
        "Pull out the invoice number, date and total from this: Invoice 4711, dated 3 May 2024, total EUR 120.50",
        "List all the people mentioned in this paragraph: Marie met Paul and later Dr. Singh at the station.",
        "From the following contract, what is the termination date?\n\n" + LEASE,
        "Return the fields name, age and city as JSON: Tom is 34 and lives in Oslo.",
        "Identify all named entities in: 'Apple opened a new store in Milan in March.'",
        "Extrahiere alle Datumsangaben aus dem Text: Die Messe läuft vom 3. bis 7. Mai, die Anmeldung endet am 1. April.",
        "Extrais les noms des entreprises citées : Renault et Michelin ont signé avec Orange.",
        "Extrae los precios del siguiente texto: la camisa cuesta 20 euros y el pantalón 35.",
        "从下面的文本中提取所有的地名：他从北京出发，经过南京到达上海。",
        "Find all the phone numbers in this page: call 555-0101 or 555-0199 after six.",
        "Parse the following résumé into JSON with keys education, experience, skills: Jane Doe, BSc 2015, nurse 2016-2020, first aid.",
        "Which clauses of this agreement mention the rent?\n\n" + LEASE,
        "Get the tracking number out of this mail: Your parcel 00340434 is on its way.",
        "Convert this table of ingredients to JSON: flour 200 g, sugar 100 g, butter 80 g",
        "What medications and dosages are mentioned in the note? 'Pt takes metformin 500 mg bid and lisinopril 10 mg.'",
    ],
    "translate": [
        "Translate to French: The meeting has been postponed until Thursday.",
        "How do you say 'where is the train station' in Japanese?",
        "Please translate the following paragraph into German.\n\nThe river rises in the hills north of the town.",
        "Übersetze ins Englische: Der Zug hat heute leider Verspätung.",
        "Traduis cette phrase en anglais : Il pleut depuis trois jours.",
        "Traduce al inglés: Nos vemos mañana en la oficina.",
        "把下面的句子翻译成英文：我昨天去了图书馆。",
        "Translation into Spanish please: 'Keep out of reach of children.'",
        "What's the Italian for 'thank you for your patience'?",
        "I need this in Portuguese: Your order has been shipped.",
        "Wie sagt man 'nice to meet you' auf Koreanisch?",
        "Translate the UI strings below from English to Dutch, keep the placeholders: 'Hello {name}', 'Save', 'Cancel'",
        "Comment dit-on « pomme de terre » en allemand ?",
        "Can you translate my grandmother's letter? It's in Polish: Kochana wnuczko, u mnie wszystko dobrze.",
        "Render the following sentence in English: Ars longa, vita brevis.",
        "次の文を英語に訳してください：明日は雨が降るでしょう。",
    ],
    "math": [
        "Solve for x: 3x + 7 = 22",
        "What is the integral of x^2 * sin(x)?",
        "Janet has 16 eggs. She eats 3 and bakes with 4, then sells the rest at $2 each. How much does she make?",
        "Compute the probability of getting exactly two heads in five fair coin tosses.",
        "Find the derivative of f(x) = ln(x^2 + 1).",
        "Berechne die Fläche eines Dreiecks mit Grundseite 8 cm und Höhe 5 cm.",
        "Résous l'équation 2x² - 3x + 1 = 0.",
        "Si un tren recorre 240 km en 3 horas, ¿cuál es su velocidad media? Calcula también los minutos por km.",
        "计算 125 × 48 等于多少？",
        "Prove that the sum of two odd integers is even.",
        "A store gives 15% off a $80 jacket and then 10% off the rest. What percent was saved in total?",
        "What is 17 * 23?",
        "If 5 machines make 5 widgets in 5 minutes, how many minutes do 100 machines need for 100 widgets?",
        "Factor the polynomial x^3 - 6x^2 + 11x - 6.",
        "Evaluate \\int_0^1 \\frac{1}{1+x^2} dx",
        "How many positive divisors does 360 have?",
        "Combien font 15 % de 240 ?",
        "Determine the eigenvalues of the matrix [[2, 1], [1, 2]].",
    ],
    "reasoning": [
        "Three people, A, B and C, each always lie or always tell the truth. A says B lies. B says C lies. C says both lie. Who is telling the truth? Think step by step.",
        "Compare the pros and cons of renting and buying a flat for a couple that may move in five years.",
        "Analyze the root cause of our churn: prices rose in March, the app was redesigned in April, support tickets doubled in May.",
        "If all bloops are razzies and all razzies are lazzies, are all bloops definitely lazzies? Explain your reasoning.",
        "Devise a plan to migrate a hospital's records to a new system without downtime, given two teams and a legal freeze in June.",
        "Should we expand to Brazil or Mexico first? Weigh market size, regulation and our Spanish-speaking staff, then justify your choice.",
        "Vergleiche die Vor- und Nachteile von Wärmepumpe und Gasheizung für ein Haus von 1970 und begründe deine Empfehlung.",
        "Analyse les conséquences d'une hausse des taux sur une petite entreprise endettée, étape par étape.",
        "Analiza las ventajas y desventajas de trabajar desde casa para un equipo repartido en tres países.",
        "小明比小红高，小红比小刚高，谁最矮？请一步一步推理。",
        "Here is my argument for a four-day week. Find the weakest premise and construct the strongest counterargument.",
        "Which of the following best explains the fall of the Western Roman Empire?\nA) plague\nB) fiscal strain\nC) climate\nD) lead pipes",
        "What would happen if the Moon were twice as heavy? Reason through tides, orbit and eclipses.",
        "You have a 3 litre and a 5 litre jug. How do you measure exactly 4 litres? Reason it through carefully.",
        "Critique the experimental design below and say which conclusions cannot be drawn: 12 volunteers, no control group, self-reported sleep.",
        "Assess whether the defendant's alibi is consistent with the witness statements and the timeline of the phone records.",
    ],
    "creative": [
        "Write a short story about a lighthouse keeper who is afraid of the dark.",
        "Compose a haiku on autumn rain.",
        "Give me ten catchy taglines for a vegan bakery.",
        "Write a rap about doing taxes at the last minute.",
        "Tell me a bedtime story with a dragon who cannot fly.",
        "Schreib mir ein Gedicht über den ersten Schnee.",
        "Écris un poème sur la mer en hiver.",
        "Inventa un cuento corto sobre un gato que viaja en el tiempo.",
        "写一首关于秋天的诗。",
        "Draft a dialogue between a robot and its gardener, melancholic in tone.",
        "I need a funny wedding toast for my brother, who is always late.",
        "Continue this scene: The door opened and nobody stood behind it.",
        "Come up with a name and backstory for a fantasy innkeeper.",
        "Write a product blurb in the style of a pirate for a waterproof watch.",
        "Brainstorm names for a podcast about forgotten inventions.",
        "Write song lyrics about leaving a small town.",
    ],
    "chat": [
        "Hi! How are you today?",
        "What's the capital of Australia?",
        "Can you recommend a good restaurant in Lisbon?",
        "thanks, that was helpful",
        "Who was the first woman in space?",
        "I feel a bit lonely this weekend. Any ideas what I could do?",
        "Was ist der Unterschied zwischen Wetter und Klima?",
        "Bonjour, tu peux me conseiller un film pour ce soir ?",
        "¿Qué es la fotosíntesis?",
        "你好，你是谁？",
        "Tell me about the history of the bicycle.",
        "What time zone is Chicago in?",
        "Is it safe to eat rice that was left out overnight?",
        "My friend's birthday is next week. What should I get her?",
        "How long do I boil an egg?",
        "What do you think about pineapple on pizza?",
    ],
}
ROWS = [(task, prompt) for task, prompts in LABELLED.items() for prompt in prompts]


def accuracy(rows: list[tuple[Task, str]]) -> tuple[float, list[str]]:
    missed = [f"{task}, judged {classify(prompt)[0]}: {prompt[:70]!r}" for task, prompt in rows if classify(prompt)[0] != task]
    return 1 - len(missed) / len(rows), missed


def test_held_out_prompts_are_classified_with_at_least_eighty_percent_accuracy() -> None:
    tuned, held_out = ([row for i, row in enumerate(ROWS) if i % 2 == half] for half in (0, 1))
    (share, missed), (tuned_share, _) = accuracy(held_out), accuracy(tuned)
    print(f"held out: {share:.1%} of {len(held_out)}; tuned on: {tuned_share:.1%} of {len(tuned)}", *missed, sep="\n  ")
    assert len(ROWS) >= 120
    assert share >= 0.80, missed
    assert tuned_share >= 0.90


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_found_more_often_than_missed(task: Task) -> None:
    share, missed = accuracy([row for row in ROWS if row[0] == task])
    assert share >= 0.6, missed


def test_reasons_name_the_signs_and_the_strongest_comes_first() -> None:
    task, confidence, reasons = classify("Please translate this into German: the cat sleeps.")
    assert task == "translate"
    assert reasons[0] == "says 'translate'"
    assert "word 'translate' + language name (german)" in reasons
    assert 0.5 < confidence <= 1.0


@pytest.mark.parametrize(
    ("text", "task", "reason"),
    [
        ("What is wrong here?\n```\nx = [1, 2\n```", "code", "code fence"),
        ("it says Traceback (most recent call last): boom", "code", "stack trace or error class"),
        ("12 * 7 = ?", "math", "formulas"),
        ("", "chat", "no sign of a special task"),
        ("zzz", "chat", "no sign of a special task"),
    ],
)
def test_signs(text: str, task: Task, reason: str) -> None:
    judged, _, reasons = classify(text)
    assert (judged, reason in reasons) == (task, True)


def test_a_schema_alone_means_extraction() -> None:
    assert classify("Jane Doe, 41, Ghent", format_kind="json_schema")[0] == "extract"
    assert classify("Jane Doe, 41, Ghent")[0] == "chat"


def test_the_last_turn_speaks_before_the_system_prompt() -> None:
    system = "You are a coding assistant for Python and SQL. Refactor and debug code."
    assert classify(f"{system}{TURN}Write a poem about the sea.")[0] == "creative"
    assert classify(f"{system}{TURN}And what about the second one?")[0] == "code"


@pytest.mark.parametrize(
    "envelope",
    [
        "<system-reminder>Run the unit tests, refactor the code, debug python.</system-reminder>",
        "<environment_context>\n<cwd>/src</cwd> python code, pytest, debug\n</environment_context>",
        "<system-reminder>refactor</system-reminder>\n<system-reminder>debug this code</system-reminder>",
        "refactor the python code and debug it</system-reminder>",
    ],
)
def test_harness_reminders_are_not_the_callers_words(envelope: str) -> None:
    assert classify(f"{envelope}\nTranslate to French: good night")[0] == "translate"


def test_a_reminder_cut_at_the_end_is_ignored_too() -> None:
    assert classify("Translate to French: good night\n<system-reminder>refactor, debug the code, unit tests")[0] == "translate"


def test_a_text_that_is_only_an_envelope_is_judged_as_it_stands() -> None:
    assert classify("<system-reminder>debug the python code</system-reminder>")[0] == "code"


def test_a_short_question_under_a_long_document_is_extraction() -> None:
    assert classify(LEASE + "\n\nOn which day is the rent due?")[0] == "extract"


def test_an_instruction_after_a_very_long_text_is_found() -> None:
    assert classify("The quiet village lay under snow. " * 4_000 + "\n\nSummarize the text above.")[0] == "summarize"


@given(st.text(max_size=600), st.sampled_from(["text", "json_object", "json_schema"]), st.integers(0, 3), st.integers(1, 9))
def test_any_text_has_a_task_a_bounded_confidence_and_a_reason(text: str, format_kind: str, tools: int, turns: int) -> None:
    task, confidence, reasons = classify(text, tools=tools, format_kind=format_kind, turns=turns)
    assert task in TASKS and 0.0 < confidence <= 1.0 and reasons
    assert classify(text, tools=tools, format_kind=format_kind, turns=turns) == (task, confidence, reasons)


@given(st.text(alphabet=st.characters(min_codepoint=0x10000, max_codepoint=0x1FFFF), min_size=1, max_size=40))
def test_reasons_never_quote_the_prompt(secret: str) -> None:
    _, _, reasons = classify(f"summarize {secret} in python 1 + 1?")
    assert not any(char in reason for char in secret for reason in reasons)


@pytest.mark.parametrize(
    "unit", ["<system-reminder>", "</system-reminder>", "A) ", "1+", "how many ", "((((", "\\int", "'", "翻译", TURN, "what is the "]
)
def test_hostile_repetition_is_judged_like_any_text(unit: str) -> None:
    assert classify(unit * 5_000)[0] in TASKS


def call(**facts: object) -> Call:
    return Call(dialect="openai-chat", model="auto", body=b"{}", **facts)  # pyright: ignore


def test_need_carries_the_facts_and_the_capabilities() -> None:
    need = need_of(
        call(prompt_tokens=120, tools=2, modalities=frozenset({"vision"}), format_kind="json_schema", reasoning=True, n=2), "Is this spam?"
    )
    assert need.prompt_tokens == 120
    assert need.capabilities == {"vision", "tools", "json_schema", "reasoning"}
    assert need.reasons and need.confidence > 0
    assert need_of(call(), "hi").capabilities == frozenset()


@pytest.mark.parametrize(
    ("task", "reasoning", "ceiling", "n", "tokens"),
    [
        ("classify", False, None, 1, 16),
        ("code", False, 100, 1, 100),
        ("code", False, 100, 3, 300),
        ("translate", False, None, 1, 500),
        ("chat", True, None, 1, 900),
        ("chat", True, 50, 0, 50),
    ],
)
def test_expected_output_follows_task_ceiling_and_choices(task: Task, reasoning: bool, ceiling: int | None, n: int, tokens: int) -> None:
    assert expected_output(task, 500, reasoning=reasoning, max_output_tokens=ceiling, n=n) == tokens
