"""Published results about clipping, in small: ``python -m benchmarks.reproduce``

Each module is one result: its source, its set-up, its bars, and the code that measures them with
the strategies of ``gradhelm.clip``. Law: bars stand in the code before anything is measured, and
whether they are held is computed. ``bars`` says what a result is made of, ``document`` writes
docs/results.md, ``figures`` draws its pictures.
"""

from . import cliff, language, percentiles, smoothness, spikes

RESULTS = (cliff.RESULT, smoothness.RESULT, language.RESULT, spikes.RESULT, percentiles.RESULT)
