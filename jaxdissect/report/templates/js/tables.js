// A table that sorts by any column and searches; long ones are built piece by piece.
const PIECE = 100;

function compareValues(a, b) {
  if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
  if (b === null || b === undefined) return -1;
  return typeof a === 'string' ? a.localeCompare(b, 'en', {numeric: true, sensitivity: 'base'}) : a - b;
}

// columns: {title, hint, number, value(row), cell(row)}; options: {caption, search(row), sort: [column, descending], shown}.
function dataTable(columns, rows, options = {}) {
  const [first, descends] = options.sort || [0, false];
  const state = {column: first, descending: descends, query: '', shown: options.shown || PIECE};
  const body = el('tbody');
  const more = el('button', {
    class: 'plain',
    type: 'button',
    onclick: () => {
      state.shown = Infinity;
      draw();
    },
  });
  const count = el('span', {class: 'muted', role: 'status'});
  const heads = columns.map((column, place) =>
    el(
      'th',
      {scope: 'col', class: column.number && 'number', title: column.hint},
      el('button', {type: 'button', onclick: () => sortBy(place)}, column.title),
    ),
  );

  function sortBy(place) {
    state.descending = state.column === place ? !state.descending : Boolean(columns[place].number);
    state.column = place;
    draw();
  }

  function chosen() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = rows.filter(
      (row) => !words.length || words.every((word) => options.search(row).toLowerCase().includes(word)),
    );
    const {value} = columns[state.column];
    return matching
      .map((row) => [value(row), row])
      .sort(([a], [b]) => {
        if (finite(a) === null || finite(b) === null) return compareValues(finite(a), finite(b));
        return (state.descending ? -1 : 1) * compareValues(a, b);
      })
      .map(([, row]) => row);
  }

  function draw() {
    const matching = chosen();
    heads.forEach((head, place) => {
      if (place === state.column) head.setAttribute('aria-sort', state.descending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    body.replaceChildren(
      ...matching.slice(0, state.shown).map((row) =>
        el(
          'tr',
          {},
          columns.map((column, place) =>
            el(
              place ? 'td' : 'th',
              {class: column.number ? 'number' : column.wide && 'wide-cell', scope: !place && 'row'},
              column.cell(row),
            ),
          ),
        ),
      ),
    );
    if (!matching.length) body.append(el('tr', {}, el('td', {colspan: columns.length}, 'No row matches.')));
    count.textContent =
      matching.length === rows.length
        ? many(rows.length, 'row')
        : `${number(matching.length)} of ${number(rows.length)} rows`;
    more.textContent = `Show all ${number(matching.length)}`;
    more.hidden = matching.length <= state.shown;
  }

  draw();
  const search =
    options.search &&
    el('input', {
      type: 'search',
      placeholder: options.placeholder || 'Search',
      'aria-label': options.placeholder || 'Search',
      oninput: (event) => {
        state.query = event.target.value;
        draw();
      },
    });
  return el(
    'div',
    {},
    (search || options.tools) && el('div', {class: 'tools'}, search, options.tools, count),
    el(
      'div',
      {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': options.caption},
      el('table', {}, el('caption', {}, options.caption), el('thead', {}, el('tr', {}, heads)), body),
    ),
    more,
  );
}
