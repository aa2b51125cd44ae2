"""Statements of the scores of the classifier a model was pretrained with, and of a stand-in for one."""

from app.scoring.contract import Input, Invariance, Score

# The probabilities are an input of their own: whatever happens to the features does not reach these scores.
_HEAD: tuple[Input, ...] = ("labels", "source_probabilities")
_UNCHANGED: frozenset[Invariance] = frozenset(
    {"scale", "offset", "rotation", "sample_permutation", "class_permutation"}
)
_PACTRAN = "Ding et al. 2022, arXiv:2203.05126"

STATEMENTS = (
    Score(
        group="head",
        name="leep",
        meaning="How well labels follow from the pretrained classifier's probabilities, in nats per image.",
        implementation="app.scoring.heads.leep:leep",
        inputs=_HEAD,
        invariances=_UNCHANGED,
        cost="n Z",
        paper="Nguyen et al. 2020, arXiv:2002.12462",
        equation="Eq. 2",
    ),
    Score(
        group="head",
        name="nce",
        meaning="How well labels follow from the pretrained classifier's choice of a class, in nats per image.",
        implementation="app.scoring.heads.nce:nce",
        inputs=_HEAD,
        invariances=_UNCHANGED,
        cost="n Z",
        paper="Tran, Nguyen and Hassner 2019, arXiv:1908.08142",
        equation="Section 3, negative conditional entropy, with predicted source labels",
    ),
    Score(
        group="head",
        name="pactran_dirichlet",
        meaning="A bound on how well labels can be predicted through the source classes, that charges for complexity.",
        implementation="app.scoring.heads.pactran:pactran_dirichlet",
        inputs=_HEAD,
        invariances=_UNCHANGED,
        cost="n Z C, ten times",
        paper=_PACTRAN,
        equation="Section 3, Dirichlet prior of class shares times alpha = 1",
        negated=True,
    ),
    Score(
        group="head",
        name="pactran_gamma",
        meaning="A bound on how well labels follow from source classes whose weights need not sum to one.",
        implementation="app.scoring.heads.pactran:pactran_gamma",
        inputs=_HEAD,
        invariances=_UNCHANGED,
        cost="n Z C, ten times",
        paper=_PACTRAN,
        equation="Section 3, Gamma prior of class shares times alpha = 1",
        negated=True,
    ),
    Score(
        group="features",
        name="nleep",
        meaning="LEEP for any model: clusters of the features take the place of the pretrained classifier's classes.",
        implementation="app.scoring.heads.nleep:nleep",
        invariances=frozenset({"scale", "offset", "rotation", "class_permutation"}),
        cost="n d min(n, d) + n^2 d / 10 for each step of five mixtures",
        paper="Li et al. 2021, arXiv:2011.11200",
        equation="Section 3, spherical components, at most one for ten images",
        stochastic=True,
    ),
)
