#!/usr/bin/env python3
"""Opens a report page in headless Chromium, offline, and checks that it is what it promises to be.

  check_report.py PAGE                        an existing page
  check_report.py --nibble PROGRAM            quantizes models/demo, makes its report and checks that
  ... --screenshot FILE [--width 1280 --height 900 --top 0 --dark]

Checked: every section and its plots are drawn; every column of every table sorts both ways, by mouse and by keyboard;
the slider of the channels works from the keyboard; texts have enough contrast in light and dark; nothing overflows a
phone's width; no exception, no line on the console, no request but for the page itself. Needs nothing but Python and
Chromium (CHROMIUM names the program), which it drives over a pipe with the DevTools protocol. Exit status: 0 fine,
1 something is wrong, 77 no Chromium.
"""
import argparse
import base64
import fcntl
import json
import math
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SKIPPED = 77
PATIENCE = 60  # seconds to wait for an answer of the browser
SECTIONS = ["channels", "depth", "maps", "text", "numbers"]


def find_browser():
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for path in map(shutil.which, names) if path), None)


class Browser:
    """A headless Chromium with one tab. Commands go to its descriptor 3, answers and events come from its 4."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(prefix="nibble-report-", ignore_cleanup_errors=True)
        (read_commands, self.to), (self.source, write_answers) = os.pipe(), os.pipe()
        # Out of the way of 3 and 4, which the child overwrites.
        far_read, far_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_commands, write_answers))
        command = [program, "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
                   "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
                   "--disable-extensions", "--hide-scrollbars", f"--user-data-dir={self.profile.name}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium has none for root

        def connect():
            os.dup2(far_read, 3)
            os.dup2(far_write, 4)

        self.process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=connect, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for end in (read_commands, write_answers, far_read, far_write):
            os.close(end)
        self.buffer, self.events, self.number, self.session = b"", [], 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def receive(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.source], [], [], max(0, end - time.monotonic()))
            chunk = os.read(self.source, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("the browser " + ("closed the connection" if ready else "does not answer"))
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data):]
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive())

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return answer["result"].get("value")

    def press(self, key, code, number, text=""):
        base = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", **base, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **base)

    def click(self, element):
        x, y = self.evaluate(f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', inline: 'center'}});"
                             "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def close(self):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(timeout=10)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group, made above
            self.process.wait()
        self.profile.cleanup()


class Check:
    def __init__(self, browser, page):
        self.browser, self.page, self.problems, self.passed = browser, page, [], 0

    def expect(self, right, problem):
        self.passed += bool(right)
        if not right:
            self.problems.append(problem)

    def open(self):
        browser = self.browser
        for domain in ("Page", "Runtime", "Network", "Log"):
            browser.call(f"{domain}.enable")
        browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0,
                     uploadThroughput=0)
        browser.size(1280, 900)
        browser.scheme("light")
        browser.call("Page.navigate", url=self.page.as_uri())
        browser.wait_for("Page.loadEventFired")

    def sections(self):
        for name in SECTIONS:
            found = self.browser.evaluate(f"""(() => {{
              const section = document.getElementById('{name}');
              if (!section) return null;
              return {{ plots: section.querySelectorAll('figure').length, tables: section.querySelectorAll('table').length,
                       absent: section.querySelectorAll('.absent').length, height: section.offsetHeight }}; }})()""")
            self.expect(found, f"section {name} is missing")
            self.expect(found and found["height"] > 30 and (found["plots"] + found["tables"] + found["absent"] > 0),
                        f"section {name} is empty")

    def plots(self):
        plots = self.browser.evaluate("""Array.from(document.querySelectorAll('svg[role=img]')).map(svg => {
          const box = svg.getBoundingClientRect();
          const drawn = Array.from(svg.querySelectorAll('path, rect, circle')).filter(
            mark => mark.getClientRects().length && mark.getBoundingClientRect().width + mark.getBoundingClientRect().height > 0);
          const text = ids => (svg.getAttribute(ids) || '').split(' ').map(
            id => document.getElementById(id)?.textContent ?? '').join('').trim();
          return { id: svg.closest('figure').id, width: box.width, height: box.height, drawn: drawn.length,
                   name: text('aria-labelledby'), description: text('aria-describedby') }; })""")
        for plot in plots:
            self.expect(plot["width"] > 100 and plot["height"] > 30, f"plot {plot['id']} has no size")
            self.expect(plot["drawn"], f"plot {plot['id']} shows nothing")
            self.expect(plot["name"] and plot["description"], f"plot {plot['id']} has no name or description")
        strange = self.browser.evaluate("document.querySelector('main').innerHTML.match(/[^a-z](nan|inf|undefined)[^a-z]/g)")
        self.expect(not strange, f"numbers without a value: {strange}")
        return [plot["id"] for plot in plots]

    def rows(self, table):
        return self.browser.evaluate(f"""Array.from(document.querySelectorAll('table')[{table}].tBodies[0].rows).map(
          row => Array.from(row.cells).map(cell => [cell.textContent, cell.dataset.key ?? null]))""")

    def add_strange_values(self):
        """Gives columns of the first table what measuring may give and the page at hand may lack."""
        self.browser.evaluate("""(() => {
          const rows = document.querySelector('table.sortable').tBodies[0].rows;
          for (let column = rows[0].cells.length - 4; column < rows[0].cells.length; ++column)
            ['', 'NaN', 'Infinity', '', '-Infinity', '', '1e-300', ''].forEach((key, index) => {
              const cell = rows[(index * 5 + column * 3) % rows.length].cells[column];
              cell.dataset.key = key;
              cell.textContent = key || '–'; }); })()""")

    def sorting(self):
        titles = self.browser.evaluate("""Array.from(document.querySelectorAll('table.sortable')).map(table =>
          Array.from(table.tHead.rows[0].cells).map(cell => [cell.textContent, cell.classList.contains('n')]))""")
        for table, columns in enumerate(titles):
            everything = sorted(map(str, self.rows(table)))
            for column, (title, numeric) in enumerate(columns):
                self.one_column(table, column, title, numeric, everything)
        return sum(map(len, titles))

    def one_column(self, table, column, title, numeric, everything):
        header = f"document.querySelectorAll('table')[{table}].tHead.rows[0].cells[{column}]"
        button = f"{header}.querySelector('button')"
        enter = lambda: self.browser.press("Enter", "Enter", 13, "\r")
        space = lambda: self.browser.press(" ", "Space", 32, " ")
        for how, act in (("click", lambda: self.browser.click(button)), ("click", lambda: self.browser.click(button)),
                         ("Enter", enter), ("space", space)):
            if how != "click":
                self.browser.evaluate(f"{button}.focus()")
            before = self.browser.evaluate(f"{header}.getAttribute('aria-sort')")
            act()
            after = self.browser.evaluate(f"{header}.getAttribute('aria-sort')")
            where = f"table {table}, column \"{title}\", {how}"
            self.expect(after in ("ascending", "descending") and after != before, f"{where}: aria-sort {before} -> {after}")
            self.expect(self.browser.evaluate(f"{header}.parentNode.querySelectorAll('[aria-sort]').length") == 1,
                        f"{where}: more than one column says that it is sorted by")
            rows = self.rows(table)
            self.expect(sorted(map(str, rows)) == everything, f"{where}: rows were lost or torn")
            self.expect(is_sorted([row[column] for row in rows], numeric or column == 0, after), f"{where}: not {after}")

    def slider(self):
        if not self.browser.evaluate("document.getElementById('block') !== null"):
            return
        shown = """Array.from(document.querySelectorAll('g.of-block')).filter(part =>
          getComputedStyle(part).display !== 'none').map(part => part.dataset.block).sort()"""
        self.browser.evaluate("document.getElementById('block').focus()")
        self.browser.press("Home", "Home", 36)
        first = self.browser.evaluate(shown)
        self.browser.press("ArrowRight", "ArrowRight", 39)
        second = self.browser.evaluate(shown)
        self.expect(set(first) == {"0"}, f"slider at its start shows the blocks {first}")
        self.expect(set(second) == {"1"} and len(second) == len(first), f"slider, one step further, shows {second}")

    def contrast(self):
        lights = []
        for scheme in ("light", "dark"):
            self.browser.scheme(scheme)
            paper, texts = self.browser.evaluate("""(() => {
              const resolve = color => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
                c.fillStyle = color; c.fillRect(0, 0, 1, 1); return Array.from(c.getImageData(0, 0, 1, 1).data); };
              const seen = {};
              for (const e of document.querySelectorAll('h1,h2,p,li,dt,dd b,dd span,th button,td,caption,figcaption b,figcaption span,svg text:not(.in-cell)')) {
                const style = getComputedStyle(e);
                seen[e instanceof SVGElement ? style.fill : style.color] = e.tagName + '.' + e.getAttribute('class');
              }
              return [resolve(getComputedStyle(document.body).backgroundColor),
                      Object.entries(seen).map(([color, who]) => [who, resolve(color)])]; })()""")
            lights.append(luminance(paper))
            for who, color in texts:
                ratio = contrast(color, paper)
                self.expect(ratio >= 4.5, f"{scheme}: text of {who} has contrast {ratio:.1f}, less than 4.5")
        self.expect(lights[0] > 0.8 and lights[1] < 0.1, f"light and dark paper have luminance {lights}")
        self.browser.scheme("light")

    def widths(self):
        for width in (320, 390, 768, 1280):
            self.browser.size(width, 844, mobile=width < 500)
            found = self.browser.evaluate("document.documentElement.scrollWidth")
            self.expect(found <= width, f"{width} pixels wide, the page needs {found}")
        self.browser.size(1280, 900)

    def silence(self):
        for event in self.browser.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(f"console: {json.dumps(parameters)[:300]}")
            if method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if url != self.page.as_uri() and not url.startswith("data:"):
                    self.problems.append(f"request: {url[:200]}")


def is_sorted(cells, numeric, direction):
    """Whether the column is in order, with what is absent (an empty key) at the end."""
    present = [cell for cell in cells if cell[1] != ""]
    if present != cells[:len(present)]:
        return False
    def value(cell):
        if not numeric:
            return cell[0]
        number = float(cell[1])
        return (1, 0.0) if math.isnan(number) else (0, number)  # not a number: beyond everything
    values = [value(cell) for cell in present]
    return values == sorted(values, reverse=direction == "descending")


def luminance(color):
    parts = [part / 255 for part in color[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def make_page(program, folder):
    """A report of the embedded model, small enough for a test."""
    model, quantized, page = ROOT / "models/demo", folder / "demo-quik", folder / "report.html"
    text = folder / "text.txt"
    text.write_bytes((model / "heldout.txt").read_bytes()[:12_000])
    run = lambda *arguments: subprocess.run([program, *map(str, arguments), "-q"], check=True, stdout=subprocess.DEVNULL)
    run("quantize", model, "-o", quantized, "-r", "quik-4b", "-c", model / "calibration.txt", "--samples", 4, "--length",
        128)
    run("report", quantized, "--against", model, "--text", text, "--window", 128, "-o", page)
    return page


def take_screenshot(browser, options):
    browser.scheme("dark" if options.dark else "light")
    browser.size(options.width, options.height, mobile=options.width < 500)
    browser.evaluate("window.scrollTo(0, 0); document.activeElement?.blur();")
    clip = {"x": 0, "y": options.top, "width": options.width, "height": options.height, "scale": 1}
    shot = browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    pathlib.Path(options.screenshot).write_bytes(base64.b64decode(shot["data"]))


def check(program, page, options):
    browser = Browser(program)
    try:
        test = Check(browser, page)
        test.open()
        test.sections()
        plots = test.plots()
        if options.screenshot:
            take_screenshot(browser, options)
            browser.size(1280, 900)
        test.add_strange_values()
        columns = test.sorting()
        test.slider()
        test.contrast()
        test.widths()
        test.silence()
    finally:
        browser.close()
    for problem in test.problems:
        print(f"check_report: {problem}")
    print(f"{page.name}: {len(plots)} plots, {columns} columns sorted four times each, {test.passed} checks passed, "
          f"{len(test.problems)} failed")
    return 1 if test.problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=pathlib.Path)
    parser.add_argument("--nibble", help="make the page of models/demo with this program")
    parser.add_argument("--screenshot", metavar="FILE")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--top", type=int, default=0, help="where the screenshot begins")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    if (options.page is None) == (options.nibble is None):
        parser.error("either PAGE or --nibble PROGRAM")
    program = find_browser()
    if program is None:
        print("check_report: skipped, there is no Chromium")
        return SKIPPED
    if options.page is not None:
        return check(program, options.page.resolve(), options)
    with tempfile.TemporaryDirectory(prefix="nibble-report-") as folder:
        return check(program, make_page(options.nibble, pathlib.Path(folder)), options)


sys.exit(main())
