"""What ipywidgets leaves out: names for sliders, and files that are dropped on a button.

A screen reader should hear what a slider is, and the value that stands beside it. A widget cannot
carry a script, but a picture that fails to load may do something; this one does it once for the
whole page, and for all widgets to come.
"""

import html

import ipywidgets as w

SCRIPT = """
if (!window.aktLab) {
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
  window.aktLab = new MutationObserver(all);
  window.aktLab.observe(document.body, {childList: true, subtree: true,
    attributeFilter: ['aria-valuetext']});
  all();

  const upload = (event) => event.target.closest?.('.widget-upload');
  document.addEventListener('dragover', (event) => upload(event) && event.preventDefault(), true);
  document.addEventListener('drop', (event) => {
    const button = upload(event), files = event.dataTransfer?.files;
    if (!button) return;
    event.preventDefault();  // else the browser leaves the page for the file
    event.stopPropagation();
    if (button.disabled || !files?.length) return;
    const click = HTMLInputElement.prototype.click;  // of the button's input, which is hidden
    HTMLInputElement.prototype.click = function () {
      this.files = files;
      this.dispatchEvent(new Event('change'));
    };
    button.click();
    HTMLInputElement.prototype.click = click;
  }, true);
}
"""


def script() -> w.HTML:
    """A widget that nobody sees; one on a page is enough, and more do no harm."""
    return w.HTML(
        f'<img alt="" hidden src="data:," onerror="{html.escape(SCRIPT)}">',
        layout=w.Layout(display="none"),
    )
