"""Words: those of English that name nothing, for methods that look for what a question names."""

FUNCTION_WORDS = frozenset(
    """
    a about above after all also am an and any are as at be been before behind being below
    beside between both but by can could d did do does doing each either for from had has have
    having he her here hers him his how i if in into is it its just ll m many may me might more
    most much must my near neither no nor not of off on one only or other our out over own re s
    same shall she should so some such t than that the their theirs them then there these they
    this those through to too under up us ve very was we were what when where which while who
    whom whose why will with would you your
    """.split()  # noqa: SIM905  # a list of strings would fill a page
)
"""Articles, pronouns, prepositions, conjunctions, auxiliaries and the like, in lower case."""
