"""Intents: the intent words by which `classify` tells tasks apart, as data.

Lines are `weight: word, several word phrase, word=group`; words of one `group` count once. English first, then German, French, Spanish,
with the commonest Italian and Portuguese verbs; Chinese and Japanese stand apart because they do not space their words. Verbs that
name the task weigh 3, nouns that belong to it 1 to 2, hints below 1. All in lower case, without punctuation (apostrophes are
spaces: "l'équation" is two words).
"""

from waypost.core.types import Task

Entry = tuple[list[str], Task, float, str]  # rest of the phrase, task, weight, group

TASKS: tuple[Task, ...] = ("translate", "summarize", "classify", "extract", "code", "math", "creative", "reasoning", "chat")

_BY_NAME: dict[str, Task] = {task: task for task in TASKS}

ENVELOPES = (
    "system-reminder", "environment_context", "user_instructions", "permissions instructions", "local-command-stdout", "command-message",
    "command-name", "ide_opened_file", "ide_selection", "agent-context", "INSTRUCTIONS", "environment_details",
)  # fmt: skip

_TABLE: dict[Task, str] = {
    "translate": """
        3: translate=t, translation of=t, translated into=t, how do you say, how would you say, how do i say
        1.2: translation=t, translating=t, translator
        0.4: need this in, put this in, this into, say this in
        3: übersetze=t, übersetzen=t, übersetz=t, traduis=t, traduire=t, traduisez=t, traduce=t, traducir=t, traduzca=t, traduci=t
        3: traduza=t
        1.2: übersetzung=t, traduction=t, traducción=t
        3: wie sagt man, comment dit on, cómo se dice
    """,
    "summarize": """
        3: summarize=s, summarise=s, summary of=s, tl dr=s, tldr=s, sum up=s, give me the gist=s, condense=s
        2: summary=s, summarizing=s, key takeaways, main points, key points, executive summary, gist, shorten, boil down, recap
        2: abstract of, in a nutshell
        1.2: shorter, brief overview, highlights, in one sentence, in two sentences, in three sentences, in three bullet points
        1.2: in five bullet points, minutes
        3: fasse=s, zusammenfassen=s, fass=s, kurzfassung, résume=s, résumer=s, résumez=s, resume el=s, resume este=s, resume la=s
        3: resume los=s, resume en=s
        3: resúmeme=s, resumir=s, resúmelo=s, haz un resumen=s, riassumi=s, resuma=s
        2: zusammenfassung=s, zusammen, résumé de=s, synthèse, resumen=s, points clés, wichtigsten punkte, puntos principales
        2: en resumen
    """,
    "classify": """
        3: classify=c, categorize=c, categorise=c, which category, what category, label each=c, label the=c, tag each=c, sentiment of
        3: spam or
        2.6: positive or negative, positive negative or neutral, positive negative neutral, assign a label, assign one
        2.6: one of the following labels, one of the following categories
        2: sentiment, is this spam, route this, route the, true or false, labels, categories, category, is it toxic, toxic or
        2: route this ticket, which department, which team, answer only yes or no, answer yes or no, reply with one word, urgent or
        1.2: classification, classifier, intent of, priority high, spam, toxic, triage, detect whether, language is this
        3: klassifiziere=c, klassifizieren=c, kategorisiere=c, ordne, classe=c, classez=c, classifie=c, classifier=c, catégorise=c
        3: clasifica=c, clasificar=c, clasifique=c, categoriza=c, classifica=c
        2: positiv oder negativ, positif ou négatif, positivo o negativo, kategorie, kategorien, catégorie, catégories, categoría
        2: categorías, stimmung, sentimiento, beschwerde oder
    """,
    "extract": """
        3: extract=e, pull out=e, pull the=e, pick out=e, find all the=e, list all the=e, list every=e, list all=e, identify all=e
        3: return the fields=e, fill in the fields
        2: extraction, parse the following, out of this, out of the following, named entities, entities, invoice number, as json with
        2: into json, json with keys, json with the keys, json object with, key value, fields, as a csv, every date, all dates
        2: all names, phone numbers, email addresses, what is the name of the
        1: according to the, from the text, from the following, mentioned in, based on the document, in the contract, in the document
        1: mentioned, json, invoice, contract
        3: extrahiere=e, extrahieren=e, entnimm=e, finde alle=e, liste alle=e, nenne alle=e, extrais=e, extraire=e, extrayez=e, relève=e
        3: extrae=e, extraer=e, extraiga=e, estrai=e, extraia=e, lista todos=e, lista todas=e
        1.5: rechnungsnummer, aus dem text, du texte, del texto, en json, als json, dans le texte, en el texto, factura, rechnung
        1.5: facture
    """,
    "code": """
        3: refactor, debug, stack trace, unit test, unit tests, code review, pull request, write a function, write code, write a script
        3: a regex, compile error, type error, this code, my code, the code
        2: code, regex, function that, script, traceback, codebase, compiler, segfault, implement, bug, bugs, dockerfile, docker
        2: kubernetes, nginx, endpoint, rest api, api, leetcode, linked list, binary tree, binary search, big o, css, git, github
        2: commit, migration, pytest, async, makefile, systemd, cron, webpack, stacktrace
        1: function, keyword, algorithm, array, loop, class, method, database, query, server, library, deploy, repository, recursion
        1: variable, compile, thread, endpoint, backend, frontend, component, schema, package, exception, module, memory leak, deadlock
        1: hook, join, table, command line, runtime
        2: programmiere, quellcode, skript, programm, schreibe eine funktion, funktion die, écris une fonction, une fonction, le code
        2: ce code, du code, código, una función, este código, función que, codice, funzione, método, corrige ce code, fehlermeldung
        2: script qui, programa que, un script
    """,
    "math": """
        3: solve for, solve the equation, differentiate, integrate, factorize, factorise, factor the, simplify the expression
        3: evaluate the integral, find the derivative, find the value of, find x
        2.2: calculate, compute, equation, integral, derivative, theorem, eigenvalue, eigenvalues, polynomial, probability that
        2.2: what is the probability, quadratic, logarithm, matrix, divisible, prime number, hypotenuse, gcd, modulo, arithmetic
        2.2: standard deviation, find the sum, area of, volume of, perimeter
        1.4: solve, prove that, how many=how-many, how much=how-many, what percent, percentage, percent, probability, sum of, product of
        1.4: average speed, remainder, interest rate, compound interest, triangle, circle, radius, fraction, square root, integer
        1.4: integers, math, maths, per hour, minutes does, total cost
        2.4: berechne, löse, rechne, ableitung, gleichung, wahrscheinlichkeit, calcule, calculez, résous, résoudre, dérivée, intégrale
        2.4: équation, probabilité, calcula, calcular, resuelve, derivada, ecuación, probabilidad, calcola, risolvi
        1.4: wie viele=how-many, wie viel=how-many, combien=how-many, cuántos=how-many, cuántas=how-many, cuánto=how-many
        1.4: quanto=how-many, quanti=how-many, prozent, wurzel, summe, somme, racine, suma, área, aire, fläche
    """,
    "creative": """
        3: poem, haiku, sonnet, limerick, short story, fairy tale, bedtime story, song lyrics, lyrics, write a story, write a song
        3: a song about, screenplay, ballad, rap about, monologue, love letter, tell me a story
        2: story, slogan, slogans, tagline, taglines, brainstorm, in the style of, fictional, invent, imagine, novel, dialogue between
        2: rhyme, rhyming, joke, jokes, character, scene, scenes, verse, verses, toast, speech for, product names, names for, catchy
        2: fantasy, metaphor, parody, plot twist, plot
        1.2: creative, compose, write a scene, funny, blog post, blurb, advertisement, ad copy, instagram, caption, dragon, wedding
        1.2: birthday, cover letter, opening line, playful
        3: gedicht, kurzgeschichte, märchen, liedtext, reime, poème, conte, nouvelle sur, chanson, écris une histoire, poema, cuento
        3: canción, relato, poesia, racconto, limericks
        2: geschichte, erfinde, witz, slogans, histoire, invente, imagine, raconte, historia, imagina, inventa, chiste, blague
        2: werbespruch, eslogan, eslóganes, accroche, werbetext, drachen
    """,
    "reasoning": """
        3: step by step, think through, reason through, logic puzzle, riddle, trade offs, tradeoffs, trade off, pros and cons
        3: root cause, what would happen if, devise a plan, make a plan, argue for and against, must be true, can we conclude
        3: who is lying, knights and knaves
        2: reason, reasoning, deduce, infer, logically, puzzle, evaluate whether, weigh, strategy, plan, critique, analyze, analyse
        2: compare, assess, justify, hypothesis, hypotheses, implications, counterargument, counterexample, evaluate, should we
        2: which option, decide whether, best strategy, multi step, consider the following, design an experiment, fallacy, diagnose
        2: conclude, contradiction, who owns, seated, constraints, migrate, prioritize, prioritise
        1: why, explain why, cause, argument, if all, therefore, consequences, conclusion, evidence, which is better, risks, scenario
        1: assume, decision, which of the following, roadmap
        2.4: schritt für schritt, begründe, vergleiche, analysiere, abwägen, vor und nachteile, vorteile und, nachteile, rätsel
        2.4: étape par étape, compare, comparez, analyse, analysez, raisonne, avantages et, inconvénients, énigme, paso a paso, compara
        2.4: analiza, razona, ventajas y, desventajas, acertijo, argumenta, bewerte, évalue, evalúa, plane, ursache
    """,
    "chat": """
        1.4: hello, hi, hey, thanks, thank you, good morning, how are you, who are you, hallo, guten tag, danke, bonjour, salut, merci
        1.4: hola, gracias, buenos días, ciao
        0.9: what is, what s, who is, who was, when did, when was, where is, tell me about, can you recommend, recommend, any tips, tips
        0.9: what are, do you, should i, was ist, wer ist, wann, qu est ce, c est quoi, qui est, quelle est, qué es, quién es, cuál es
        0.9: recommande, recomienda, empfiehl, empfehlen, can i, how do i, how can i, what does
        0.5: best, favorite, favourite, weekend, recipe, dinner, feel, feeling, advice, friend, restaurant, visit, travel
    """,
}

# Found anywhere in the text. Chinese (simplified and traditional where they differ), then Japanese.
_EAST_ASIAN = """
    translate: 翻译=4 翻譯=4 訳して=4 译成=3 英語に=1.5
    summarize: 要約=4 总结=3.5 總結=3.5 概括=3.5 摘要=3 要点=1.2
    classify: 分类=3.5 分類=3.5 正面还是负面=3 类别=2 情感=1.8 判断以下=1.5
    extract: 提取=3.5 抽取=3.5 抽出=3.5 列出所有=2.5 找出=2
    code: 代码=3 编程=3 コード=3 程式=2.5 程序=2 报错=2 脚本=2 関数=2 函数=1.8
    math: 计算=3 計算=3 求解=3 方程=3 导数=3 积分=2.5 概率=2.5 多少=1.6 求=0.5
    creative: 写一首=3.5 歌词=3 广告语=3 俳句=3 故事=2.5 小说=2.5 物語=2.5 诗=2
    reasoning: 一步一步=3 推理=3 优缺点=3 逐步=2.5 優缺點=2.5 比较=2 分析=2 逻辑=2 为什么=1
    chat: 你好=1.5 谢谢=1.5 推荐=1.5 こんにちは=1.5 是什么=0.9
"""


_LANGUAGES = """
    english: english englisch anglais inglés ingles inglese inglês
    german: german deutsch deutsche allemand alemán tedesco
    french: french französisch français francés francese
    spanish: spanish spanisch espagnol español spagnolo
    italian: italian italienisch italien italiano
    portuguese: portuguese portugiesisch portugais portugués
    chinese: chinese mandarin cantonese chinesisch chinois chino
    japanese: japanese japanisch japonais japonés
    korean: korean koreanisch coréen coreano
    russian: russian russisch russe ruso
    arabic: arabic arabisch arabe árabe
    hindi: hindi
    dutch: dutch niederländisch néerlandais neerlandés
    polish: polnisch polonais polaco
    turkish: turkish türkisch turc turco
    ukrainian: ukrainian ukrainisch ukrainien ucraniano
    vietnamese: vietnamese
    greek: greek griechisch grec griego
    swedish: swedish schwedisch suédois sueco
    latin: latin latein
    hebrew: hebrew hebräisch hébreu hebreo
"""

_PROGRAMMING = """
        python javascript typescript java rust golang kotlin c++ c# sql postgresql postgres mysql sqlite bash powershell html
    react vue angular django      flask fastapi numpy pandas pytorch php ruby scala haskell perl lua julia matlab vba cobol
    fortran graphql terraform ansible tailwind node express svelte      npm pip cargo asyncio regexp jquery spring sqlalchemy
    tkinter opencv redis kafka elixir clojure solidity verilog
"""


def _words() -> dict[str, list[Entry]]:
    """First word of every phrase -> the phrases that start with it, longest first. Names of languages have no weight of their own."""
    words: dict[str, list[Entry]] = {}
    for task, lines in _TABLE.items():
        for line in lines.strip().splitlines():
            weight, _, phrases = line.partition(":")
            for phrase in phrases.split(","):
                spelled, _, group = phrase.strip().partition("=")
                first, *rest = spelled.split()
                words.setdefault(first, []).append((rest, task, float(weight), group))
    for line in _LANGUAGES.strip().splitlines():
        language, _, names = line.strip().partition(":")
        for name in names.split():
            words.setdefault(name, []).append(([], "translate", 0.0, f"human:{language}"))
    for name in _PROGRAMMING.split():
        words.setdefault(name, []).append(([], "code", 0.0, f"programming:{name}"))
    for entries in words.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return words


def _east_asian() -> tuple[tuple[str, Task, float], ...]:
    rows: list[tuple[str, Task, float]] = []
    for line in _EAST_ASIAN.strip().splitlines():
        name, _, phrases = line.strip().partition(": ")
        task = _BY_NAME[name]
        for phrase in phrases.split():
            spelled, _, weight = phrase.partition("=")
            rows.append((spelled, task, float(weight)))
    return tuple(rows)


WORDS = _words()
CJK = _east_asian()
