"""What is asked: frozen descriptions, validated once, that compute nothing."""

from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher, DirichletStudent, SoftmaxStudent, TabularStudent
from kdstats.problem.design import SOURCES, STRATEGIES, Design, VarianceWeighting
from kdstats.problem.language import LanguageSampling, LanguageStudent, LanguageTeacher
from kdstats.problem.sequences import SequenceTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import EarlyStopping, GradientDescent, LinearStudent, NetworkStudent
from kdstats.problem.teacher import GaussianTeacher

__all__ = [
    "SOURCES",
    "STRATEGIES",
    "BayesianLinearStudent",
    "BayesianStudent",
    "CategoricalTeacher",
    "Design",
    "DirichletStudent",
    "DistillationProblem",
    "EarlyStopping",
    "GaussianTeacher",
    "GradientDescent",
    "LanguageSampling",
    "LanguageStudent",
    "LanguageTeacher",
    "LinearStudent",
    "NetworkStudent",
    "SequenceTeacher",
    "SoftmaxStudent",
    "TabularStudent",
    "VarianceWeighting",
]
