"""The studies, by name."""

from optdsl.studies.catalog.cost import CostStudy
from optdsl.studies.catalog.counterexample import CounterexampleStudy
from optdsl.studies.catalog.evolution import EvolutionStudy
from optdsl.studies.catalog.interpolation import InterpolationStudy
from optdsl.studies.catalog.losses import LanguageStudy, VisionStudy
from optdsl.studies.catalog.robustness import RobustnessStudy
from optdsl.studies.catalog.starts import StartsStudy
from optdsl.studies.catalog.workloads import WorkloadsStudy
from optdsl.studies.frame.study import Study

STUDIES: dict[str, type[Study]] = {
    cls.model_fields["study"].default: cls
    for cls in (
        CounterexampleStudy,
        InterpolationStudy,
        LanguageStudy,
        VisionStudy,
        RobustnessStudy,
        StartsStudy,
        EvolutionStudy,
        CostStudy,
        WorkloadsStudy,
    )
}
