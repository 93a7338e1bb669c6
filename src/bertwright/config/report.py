"""Settings of a report."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bertwright.config.base import Settings


class ReportSettings(Settings):
    """Settings of a report."""

    output: str = Field("report.html", description="File of the page.")
    figures: str | None = Field(None, description="Folder for its pictures, each as SVG and PNG.")
    tables: str | None = Field(None, description="Folder for its tables, each as Markdown and CSV.")
    overwrite: bool = Field(False, description="Replace the page, and files of the same names in these folders.")


class ReportConfig(ReportSettings):
    """A report as asked for: its settings and what it is about."""

    runs: tuple[str, ...] = Field(description="Folders of runs, or of one sweep.")

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        if not self.runs:
            raise ValueError("no run given: name the folder of a run, of several to compare, or of a sweep")
        return self
