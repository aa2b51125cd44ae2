"""Statements of the scores that predict the labels from the features."""

from app.scoring.contract import Invariance, Score

_ORDER_FREE: frozenset[Invariance] = frozenset({"sample_permutation", "class_permutation"})

STATEMENTS = (
    Score(
        group="features",
        name="logme",
        meaning="How probable the labels are under a Bayesian linear model on the features, per image.",
        implementation="app.scoring.features.logme:logme",
        invariances=_ORDER_FREE | {"scale", "rotation"},
        cost="n d min(n, d)",
        paper="You et al. 2021, arXiv:2102.11005",
        equation="Eq. 2, maximised exactly and right for n < d",
    ),
    Score(
        group="features",
        name="knn",
        meaning="Share of images whose nearest other images belong to the same class.",
        implementation="app.scoring.features.knn:knn",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n^2 d",
        paper="Cover and Hart 1967, doi:10.1109/TIT.1967.1053964",
        equation="k-nearest-neighbour rule, leave-one-out",
    ),
    Score(
        group="features",
        name="linear_probe",
        meaning="Share of images that a linear classifier on the features gets right when it has not seen them.",
        implementation="app.scoring.features.linear_probe:linear_probe",
        invariances=frozenset({"scale", "offset", "rotation", "class_permutation"}),
        cost="n C min(n, d), some thousand times",
        paper="Alain and Bengio 2016, arXiv:1610.01644",
        equation="multinomial logistic regression, stratified 5-fold cross-validation",
        stochastic=True,
    ),
    Score(
        group="features",
        name="ridge_gcv",
        meaning="Share of the labels' variance that a linear fit predicts for images it has not seen.",
        implementation="app.scoring.features.ridge:ridge_gcv",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Golub, Heath and Wahba 1979, doi:10.1080/00401706.1979.10489751",
        equation="Eq. 1.4, over that of the class shares, subtracted from one",
    ),
    Score(
        group="features",
        name="ridge_loo",
        meaning="Share of images that a linear fit to all other images gets right.",
        implementation="app.scoring.features.ridge:ridge_loo",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Golub, Heath and Wahba 1979, doi:10.1080/00401706.1979.10489751",
        equation="leave-one-out residuals r / (1 - H_ii)",
    ),
    Score(
        group="features",
        name="lda",
        meaning="Share of images that normal distributions fitted to the classes of all other images get right.",
        implementation="app.scoring.features.discriminant:lda",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4",
        equation="Lemmas 3.2 to 3.4 for the covariance; linear discriminant analysis, leave-one-out",
    ),
    Score(
        group="features",
        name="lda_likelihood",
        meaning="How probable normal distributions fitted to all other images find each image's class, in nats.",
        implementation="app.scoring.features.discriminant:lda_likelihood",
        invariances=_ORDER_FREE | {"scale", "offset", "rotation"},
        cost="n d min(n, d)",
        paper="Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4",
        equation="Lemmas 3.2 to 3.4 for the covariance; mean log posterior, leave-one-out",
    ),
)
