// Tables: a click on a heading sorts by it, numbers from the largest first; a second click turns the order round.
// What is absent stays last.
const order = new Map([['NaN', 2], ['Infinity', 1], ['-Infinity', -1]]);

function compareNumbers(a, b) {
  const strangeness = (order.get(a) ?? 0) - (order.get(b) ?? 0);
  return strangeness || (order.has(a) ? 0 : Number(a) - Number(b));
}

function sortBy(table, column, header) {
  const numeric = header.classList.contains('n');
  const before = header.getAttribute('aria-sort');
  const descending = before ? before === 'ascending' : numeric;
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const absent = row => row.cells[column].dataset.key === '';
  const compare = numeric || column === 0 ? compareNumbers : (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  rows.sort((a, b) => absent(a) - absent(b) || (absent(a) ? 0 : (descending ? -1 : 1) * compare(key(a), key(b))));
  body.append(...rows);
  for (const other of header.parentNode.cells) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
}

for (const table of document.querySelectorAll('table.sortable'))
  Array.from(table.tHead.rows[0].cells).forEach((header, column) =>
    header.querySelector('button').addEventListener('click', () => sortBy(table, column, header)));

// Channels: the slider, or a click into a plot over the blocks, chooses the block that is drawn.
const slider = document.getElementById('block');
if (slider) {
  const blocks = Number(slider.dataset.blocks);
  const show = () => {
    for (const part of document.querySelectorAll('.of-block'))
      part.classList.toggle('on', part.dataset.block === slider.value);
    const place = (Number(slider.value) + 0.5) / blocks * 100 + '%';
    for (const cursor of document.querySelectorAll('.cursor')) {
      cursor.setAttribute('x1', place);
      cursor.setAttribute('x2', place);
    }
    slider.nextElementSibling.textContent = `${slider.value} of 0–${blocks - 1}`;
  };
  slider.disabled = false;
  slider.addEventListener('input', show);
  for (const choice of document.querySelectorAll('[data-choose]'))
    choice.addEventListener('click', () => { slider.value = choice.dataset.choose; show(); });
  show();
}
