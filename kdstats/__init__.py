"""Predict, observe and test how much distilled students vary.

>>> import kdstats as kd
>>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)
>>> kd.predict(problem).inter_student.values.ravel()  # noise variance over number of inputs
array([0.5])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name -> module that defines it; modules are imported when a name is first used.
_HOMES = {
    "BayesianLinearStudent": "kdstats.problem",
    "BayesianStudent": "kdstats.problem",
    "ClassComponents": "kdstats.components.classes",
    "ClassPrediction": "kdstats.components.class_prediction",
    "CategoricalTeacher": "kdstats.problem",
    "Design": "kdstats.problem",
    "DirichletStudent": "kdstats.problem",
    "DistillationProblem": "kdstats.problem",
    "EarlyStopping": "kdstats.problem",
    "EffectiveResponses": "kdstats.prediction.effective_responses",
    "Gamma": "kdstats.sampling",
    "GaussianTeacher": "kdstats.problem",
    "GradientDescent": "kdstats.problem",
    "LanguageSampling": "kdstats.problem",
    "LanguageStudent": "kdstats.problem",
    "LanguageStudents": "kdstats.observation.language.students",
    "LanguageTeacher": "kdstats.problem",
    "Laplace": "kdstats.sampling",
    "HallucinationRisk": "kdstats.prediction.closed_form.hallucination",
    "LinearStudent": "kdstats.problem",
    "NetworkResponse": "kdstats.prediction.networks.response",
    "NetworkStudent": "kdstats.problem",
    "Plan": "kdstats.planning",
    "EmpiricalRisk": "kdstats.prediction.class_risk",
    "RiskDistribution": "kdstats.prediction.class_risk",
    "empirical_risk": "kdstats.prediction.class_risk",
    "risk_distribution": "kdstats.prediction.class_risk",
    "ResponseComponents": "kdstats.components.responses",
    "ResponseStore": "kdstats.observation.language.store",
    "Seeds": "kdstats.streams",
    "SequencePrediction": "kdstats.prediction.sequences",
    "SequenceTeacher": "kdstats.problem",
    "SequentialRatioTest": "kdstats.hypotest",
    "SequentialTest": "kdstats.hypotest",
    "SoftmaxStudent": "kdstats.problem",
    "SourceComponents": "kdstats.components.sources",
    "StudentT": "kdstats.sampling",
    "TokenComponents": "kdstats.observation.language.tokens",
    "TabularStudent": "kdstats.problem",
    "VarianceAttribution": "kdstats.components.attribution",
    "VarianceComponents": "kdstats.components.result",
    "VarianceWeighting": "kdstats.problem",
    "WeightingGains": "kdstats.prediction.weighting",
    "attribute_variance": "kdstats.observation.attribution",
    "choose_labels": "kdstats.observation.responses.labels",
    "compare": "kdstats.hypotest",
    "conservation_test": "kdstats.hypotest",
    "covariance_test": "kdstats.hypotest",
    "decompose_tokens": "kdstats.observation.language.tokens",
    "effective_responses": "kdstats.prediction.effective_responses",
    "equality_test": "kdstats.hypotest",
    "equivalence_test": "kdstats.hypotest",
    "decompose": "kdstats.observation.table",
    "decompose_classes": "kdstats.observation.classes",
    "decompose_responses": "kdstats.observation.responses.decomposition",
    "decompose_sources": "kdstats.observation.crossed",
    "estimate_components": "kdstats.components.estimation",
    "hallucination_risk": "kdstats.prediction.closed_form.hallucination",
    "homogeneity_test": "kdstats.hypotest",
    "medoid_variance": "kdstats.prediction.medoid",
    "mse_distribution": "kdstats.prediction.closed_form",
    "mse_test": "kdstats.hypotest",
    "network_response": "kdstats.prediction.networks.response",
    "observe": "kdstats.engine",
    "observe_until_decided": "kdstats.study",
    "ordering_test": "kdstats.hypotest",
    "plan": "kdstats.planning",
    "predict": "kdstats.engine",
    "predict_classes": "kdstats.prediction.closed_form.classes",
    "predict_grid": "kdstats.prediction.closed_form",
    "predict_sequences": "kdstats.prediction.sequences",
    "predictive_calibration": "kdstats.prediction.conjugate",
    "rate_test": "kdstats.hypotest",
    "ratio_test": "kdstats.hypotest",
    "sample_responses": "kdstats.observation.language.responses",
    "sample_students": "kdstats.prediction.bayes",
    "sequential_ratio_test": "kdstats.hypotest",
    "sequential_test": "kdstats.hypotest",
    "student_mse": "kdstats.hypotest",
    "train_language_students": "kdstats.observation.language.training",
    "weighting_gains": "kdstats.prediction.weighting",
}
_MODULES = {"catalog": "kdstats.problem.catalog", "errors": "kdstats.errors"}

__all__ = ["__version__", *sorted(_HOMES), *sorted(_MODULES)]

if TYPE_CHECKING:
    from kdstats import errors as errors
    from kdstats.components.attribution import VarianceAttribution as VarianceAttribution
    from kdstats.components.class_prediction import ClassPrediction as ClassPrediction
    from kdstats.components.classes import ClassComponents as ClassComponents
    from kdstats.components.estimation import estimate_components as estimate_components
    from kdstats.components.responses import ResponseComponents as ResponseComponents
    from kdstats.components.result import VarianceComponents as VarianceComponents
    from kdstats.components.sources import SourceComponents as SourceComponents
    from kdstats.engine import observe as observe, predict as predict
    from kdstats.hypotest import (
        SequentialRatioTest as SequentialRatioTest,
        SequentialTest as SequentialTest,
        compare as compare,
        conservation_test as conservation_test,
        covariance_test as covariance_test,
        equality_test as equality_test,
        equivalence_test as equivalence_test,
        homogeneity_test as homogeneity_test,
        mse_test as mse_test,
        ordering_test as ordering_test,
        rate_test as rate_test,
        ratio_test as ratio_test,
        sequential_ratio_test as sequential_ratio_test,
        sequential_test as sequential_test,
        student_mse as student_mse,
    )
    from kdstats.observation.attribution import attribute_variance as attribute_variance
    from kdstats.observation.classes import decompose_classes as decompose_classes
    from kdstats.observation.crossed import decompose_sources as decompose_sources
    from kdstats.observation.language.responses import sample_responses as sample_responses
    from kdstats.observation.language.store import ResponseStore as ResponseStore
    from kdstats.observation.language.students import LanguageStudents as LanguageStudents
    from kdstats.observation.language.tokens import (
        TokenComponents as TokenComponents,
        decompose_tokens as decompose_tokens,
    )
    from kdstats.observation.language.training import train_language_students as train_language_students
    from kdstats.observation.responses.decomposition import decompose_responses as decompose_responses
    from kdstats.observation.responses.labels import choose_labels as choose_labels
    from kdstats.observation.table import decompose as decompose
    from kdstats.planning import Plan as Plan, plan as plan
    from kdstats.prediction.bayes import sample_students as sample_students
    from kdstats.prediction.class_risk import (
        EmpiricalRisk as EmpiricalRisk,
        RiskDistribution as RiskDistribution,
        empirical_risk as empirical_risk,
        risk_distribution as risk_distribution,
    )
    from kdstats.prediction.closed_form import mse_distribution as mse_distribution, predict_grid as predict_grid
    from kdstats.prediction.closed_form.classes import predict_classes as predict_classes
    from kdstats.prediction.closed_form.hallucination import (
        HallucinationRisk as HallucinationRisk,
        hallucination_risk as hallucination_risk,
    )
    from kdstats.prediction.conjugate import predictive_calibration as predictive_calibration
    from kdstats.prediction.effective_responses import (
        EffectiveResponses as EffectiveResponses,
        effective_responses as effective_responses,
    )
    from kdstats.prediction.medoid import medoid_variance as medoid_variance
    from kdstats.prediction.networks.response import (
        NetworkResponse as NetworkResponse,
        network_response as network_response,
    )
    from kdstats.prediction.sequences import (
        SequencePrediction as SequencePrediction,
        predict_sequences as predict_sequences,
    )
    from kdstats.prediction.weighting import WeightingGains as WeightingGains, weighting_gains as weighting_gains
    from kdstats.problem import (
        BayesianLinearStudent as BayesianLinearStudent,
        BayesianStudent as BayesianStudent,
        CategoricalTeacher as CategoricalTeacher,
        Design as Design,
        DirichletStudent as DirichletStudent,
        DistillationProblem as DistillationProblem,
        EarlyStopping as EarlyStopping,
        GaussianTeacher as GaussianTeacher,
        GradientDescent as GradientDescent,
        LanguageSampling as LanguageSampling,
        LanguageStudent as LanguageStudent,
        LanguageTeacher as LanguageTeacher,
        LinearStudent as LinearStudent,
        NetworkStudent as NetworkStudent,
        SequenceTeacher as SequenceTeacher,
        SoftmaxStudent as SoftmaxStudent,
        TabularStudent as TabularStudent,
        VarianceWeighting as VarianceWeighting,
        catalog as catalog,
    )
    from kdstats.sampling import Gamma as Gamma, Laplace as Laplace, StudentT as StudentT
    from kdstats.streams import Seeds as Seeds
    from kdstats.study import observe_until_decided as observe_until_decided


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'kdstats' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
