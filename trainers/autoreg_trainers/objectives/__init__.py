"""What a trainer minimises: compression, alignment, or the contrastive baseline."""

from autoreg_trainers.objectives.alignment import Alignment, AlignmentSettings
from autoreg_trainers.objectives.compression import Compression
from autoreg_trainers.objectives.contrastive import Contrastive
from autoreg_trainers.objectives.objective import Objective, Outcome

__all__ = ["Alignment", "AlignmentSettings", "Compression", "Contrastive", "Objective", "Outcome"]
