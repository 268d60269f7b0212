"""Names for sliders: a screen reader hears what a slider is, and the value that stands beside it.

ipywidgets gives its sliders neither. A widget cannot carry a script, but a picture that fails to
load may do something; this one does it once for the whole page, and for all sliders to come.
"""

import html

import ipywidgets as w

SCRIPT = """
if (!window.aktLabels) {
  const name = (slider) => {
    const handle = slider.querySelector('[role=slider]');
    const label = slider.querySelector('.widget-label');
    const value = slider.querySelector('.widget-readout');
    if (!handle || !label || !value) return;
    const said = {'aria-label': label.textContent, 'aria-valuetext': value.textContent};
    for (const [key, text] of Object.entries(said))
      if (handle.getAttribute(key) !== text) handle.setAttribute(key, text);
  };
  const all = () => document.querySelectorAll('.widget-slider').forEach(name);
  window.aktLabels = new MutationObserver(all);
  window.aktLabels.observe(document.body, {childList: true, subtree: true,
    attributeFilter: ['aria-valuetext']});
  all();
}
"""


def labels() -> w.HTML:
    """A widget that nobody sees; one on a page is enough, and more do no harm."""
    return w.HTML(
        f'<img alt="" hidden src="data:," onerror="{html.escape(SCRIPT)}">',
        layout=w.Layout(display="none"),
    )
