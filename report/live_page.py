"""A page on which people try photos: controls, and the stages beside them. Gradio draws it; nothing leaves the machine.

What the page computes is somebody else's: it gets a `Studio`, whose errors become a line on the page.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol

from common.errors import StopRun, UserError, in_short
from report.photo_stages import ASSETS, PhotoStages, stages_html

WAITING = 32  # people's requests; more are told to come back
MOST_UPLOAD = "100mb"
SWEEP, AGE = 300, 3600  # seconds: how often files are looked through, and how old they become
ALL = "all words"
HINT = '<p class="hint">Choose a photo or an example, and say what it shows. The stages appear here.</p>'
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_RUN_HISTORY": "False"}
LOST = "the photo is no longer there; choose it again"
# The mask is made when it is asked for; the browser then fetches it as if a link had been pressed.
FETCH = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url; link.download = file.orig_name || "mask.png";
  document.body.append(link); link.click(); link.remove();
}"""
# In a small window the pictures are below the controls.
INTO_VIEW = """() => {
  const moved = document.getElementById("moved");
  if (moved && innerWidth < 700) moved.scrollIntoView({behavior: "smooth"});
}"""


@dataclass(frozen=True)
class Asked:
    """What the controls say.

    words, around  as typed: what the photo shows, and what surrounds it (empty: the usual words)
    cam_type       "attn_highres" or "highres", the maps after or before the affinity
    options        values of the method's own settings that can be moved
    """

    photo: Path
    words: str
    method: str
    has_background: bool
    around: str
    cam_type: str
    confidence: float
    options: Mapping[str, float]


class Studio(Protocol):
    """What computes. All of it raises UserError for people's mistakes.

    methods     names, the first of which is chosen at the start
    classes     the words that it knows; none: any words
    background  whether there is one at the start; None: that is fixed
    sliders     of all methods: (label, what it means) by name of a setting, a share from 0 to 1
    examples    (photo, its words)
    """

    methods: Sequence[str]
    classes: Sequence[str]
    background: bool | None
    confidence: float
    model: str
    sliders: Mapping[str, tuple[str, str]]
    examples: Sequence[tuple[Path, str]]

    def defaults(self, method: str) -> Mapping[str, float]:
        """The settings of a method that can be moved, and where they stand."""

    def stages(self, asked: Asked) -> PhotoStages: ...

    def mask(self, asked: Asked) -> Path:
        """The mask as a file."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Where the page keeps what is sent to it, removed at the end. Gradio is told of it, and to send nothing out."""
    with tempfile.TemporaryDirectory(prefix="pseudo-masks-page-") as folder:
        before = {name: os.environ.get(name) for name in (*OFFLINE, "GRADIO_TEMP_DIR")}
        os.environ.update(OFFLINE, GRADIO_TEMP_DIR=folder)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def line_of(error: Exception, photo: Path | None = None) -> str:
    """An error as one line for the page: without folders of this machine and names of options."""
    if isinstance(error, UserError | StopRun):
        text = " ".join(str(error).split())
    else:
        text = in_short(f"{type(error).__name__}: {error}")
    if photo is not None:
        text = text.replace(str(photo), photo.name)
    return text.removeprefix("--labels ")


def build(studio: Studio) -> Any:
    """The page as Gradio's Blocks, for `serve`."""
    import gradio as gr

    first = _defaults(studio, studio.methods[0])
    with gr.Blocks(title="Pseudo masks", analytics_enabled=False, delete_cache=(SWEEP, AGE)) as page:
        gr.HTML(_head(studio), elem_classes="head")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.Image(
                    label="Photo", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240
                )
                photo.preprocess = _path  # as it was sent: the stages read it, and say what is wrong with it
                words = gr.Textbox(
                    label="Words", info="what the photo shows, by commas", placeholder=_placeholder(studio), lines=1
                )
                start = gr.Button("Make the mask", variant="primary")
                pictures = [[str(path)] for path, _ in studio.examples]
                examples = gr.Dataset(
                    components=[gr.Image(visible=False)],
                    samples=pictures,
                    type="index",
                    label="Examples of the toy world",
                    visible=bool(pictures),
                )
                method = gr.Dropdown(list(studio.methods), value=studio.methods[0], label="Method")
                with gr.Accordion("Background", open=False, visible=studio.background is not None):
                    background = gr.Checkbox(
                        studio.background is not False, label="what is none of the words is background"
                    )
                    around = gr.Textbox(
                        label="Words for the background", info="empty: the usual ones", placeholder="grass, sky"
                    )
            with gr.Column(scale=3, min_width=300):
                with gr.Row(elem_id="moved"):
                    confidence = _slider(
                        gr, "Confidence", "below this probability a pixel becomes 255", studio.confidence, True
                    )
                    sliders = {
                        name: _slider(gr, label, info, first.get(name, 0.0), name in first)
                        for name, (label, info) in studio.sliders.items()
                    }
                    shown = gr.Dropdown(
                        [ALL], value=ALL, label="Heat maps of", info="colours only", interactive=True, min_width=130
                    )
                    cam_type = gr.Radio(
                        [("after the affinity", "attn_highres"), ("before", "highres")],
                        value="attn_highres",
                        label="Maps for the CRF",
                        min_width=130,
                    )
                problem = gr.HTML(visible=False)
                result = gr.HTML(HINT, apply_default_css=False)
                save = gr.Button("Download the mask (PNG)", visible=False)
                file = gr.File(visible=False)

        controls = [photo, words, method, background, around, cam_type, confidence, shown, *sliders.values()]

        def asked(values: Sequence[Any]) -> Asked:
            photo, words, method, background, around, cam_type, confidence, _shown, *moved = values
            if not photo:
                raise UserError("no photo: choose one, or press an example")
            if not Path(photo).is_file():
                raise UserError(f"{Path(photo).name}: {LOST}")
            wanted = studio.defaults(method)
            options = {name: float(value) for name, value in zip(sliders, moved) if name in wanted}
            return Asked(
                Path(photo), words or "", method, bool(background), around or "", cam_type, float(confidence), options
            )

        def look(*values: Any) -> tuple[Any, ...]:
            """The pictures, no problem, the words whose maps can be shown, and the download; or the problem alone."""
            try:
                stages = studio.stages(asked(values))
                word = values[7] if values[7] in stages.words else ALL
                choice = gr.update(choices=[ALL, *stages.words], value=word)
                return stages_html(stages, word), gr.update(visible=False), choice, gr.update(visible=True)
            except Exception as error:  # never a traceback on the page
                return "", problem_of(error, values[0]), gr.skip(), gr.update(visible=False)

        def look_again(*values: Any) -> tuple[Any, ...]:
            """The same where something is shown already: a moved setting alone asks for nothing."""
            return look(*values) if values[0] and values[1] else (gr.skip(),) * len(outputs)

        def choose(method: str) -> list[Any]:
            """The sliders of a method where they stand by themselves."""
            values = _defaults(studio, method)
            return [gr.update(value=values.get(name, 0.0), visible=name in values) for name in sliders]

        def mask(*values: Any) -> tuple[Any, Any]:
            try:
                return str(studio.mask(asked(values))), gr.update(visible=False)
            except Exception as error:
                return None, problem_of(error, values[0])

        def problem_of(error: Exception, photo: str | None) -> Any:
            line = escape(line_of(error, Path(photo) if photo else None))
            return gr.update(value=f'<p class="problem" role="alert">{line}</p>', visible=True)

        outputs = [result, problem, shown, save]
        one_by_one = {"concurrency_id": "studio", "concurrency_limit": 1, "api_visibility": "private"}
        seen = {"show_progress": "minimal", **one_by_one}
        unseen = {"show_progress": "hidden", **one_by_one}
        first_look = gr.on([start.click, words.submit], look, controls, outputs, **seen)
        example = examples.click(lambda index: studio.examples[index], examples, [photo, words], **unseen)
        for looked in (first_look, example.then(look, controls, outputs, **seen)):
            looked.then(None, None, None, js=INTO_VIEW)
        chosen = method.input(choose, method, list(sliders.values()), **unseen) if sliders else method.input()
        chosen.then(look_again, controls, outputs, **seen)
        moved = [slider.input for slider in (confidence, *sliders.values())]
        gr.on(
            [*moved, cam_type.input, shown.input], look_again, controls, outputs, trigger_mode="always_last", **unseen
        )
        gr.on([background.input, around.submit], look_again, controls, outputs, **seen)
        save.click(mask, controls, [file, problem], **seen).then(None, file, None, js=FETCH)
    return page.queue(max_size=WAITING)


def serve(page: Any, host: str, port: int) -> str:
    """Serve a page of `build` beside the caller, until `page.close()`; returns its address."""
    import gradio as gr

    font = ["system-ui", "DejaVu Sans", "sans-serif"]  # of the machine: Gradio's own come from elsewhere
    theme = gr.themes.Base(font=font, font_mono=["ui-monospace", "monospace"], primary_hue="blue").set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
    _app, address, _shared = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=MOST_UPLOAD,
        theme=theme,
        css_paths=ASSETS / "live_page.css",
    )
    return str(address)


def _defaults(studio: Studio, method: str) -> Mapping[str, float]:
    with suppress(UserError):  # it says so when it is used
        return studio.defaults(method)
    return {}


def _path(payload: Any) -> str | None:
    """What Gradio's image control hands on: the file as it was sent."""
    return None if payload is None else payload.path


def _slider(gr: Any, label: str, info: str, value: float, visible: bool) -> Any:
    return gr.Slider(0, 1, value=value, step=0.01, label=label, info=info, visible=visible, min_width=130, buttons=[])


def _head(studio: Studio) -> str:
    known = f"It knows the words {', '.join(studio.classes[:12])}{', ...' if len(studio.classes) > 12 else ''}."
    text = known if studio.classes else "Any words will do."
    where = "Photos stay on the machine that shows this page."
    return f"<h1>Pseudo masks</h1><p>{escape(f'{studio.model}. {text} {where}')}</p>"


def _placeholder(studio: Studio) -> str:
    return ", ".join(studio.classes[:2]) if studio.classes else "dog, person"
