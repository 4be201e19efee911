"""What this machine has and lacks: facts for ``fastiseat doctor``, found by looking and changed by nothing.

Nothing here imports an optional package: ``import ffcv`` alone would change torch's number of threads, and what
goes by the name of apex may be anybody's code.
"""

from fastiseat.diagnosis.finding import Diagnosis, Finding
from fastiseat.diagnosis.system import processor_finding, python_finding, system_finding, torch_finding

__all__ = ["Diagnosis", "Finding", "examine"]


def examine() -> Diagnosis:
    """Look at everything but the choices; where torch cannot be imported, at what can be seen without it."""
    from fastiseat.diagnosis import extras, nvidia

    base = [system_finding(), python_finding(), torch := torch_finding()]
    cards = nvidia.nvidia_smi()
    driver = nvidia.driver_finding(cards)
    if not torch.found:
        return Diagnosis(findings=(*base, driver, *extras.optional_findings(())), gpus=())
    build = nvidia.torch_build()
    gpus = tuple(nvidia.diagnose_gpu(gpu, build, nvidia.driver_of(cards)) for gpu in nvidia.gpus(cards, build))
    base.append(processor_finding())
    libraries = (extras.native_finding("cpu"), extras.native_finding("cuda"))
    return Diagnosis(findings=(*base, driver, *libraries, *extras.optional_findings(gpus)), gpus=gpus)
