(() => {
  const table = document.getElementById('cases'), body = table.tBodies[0], rows = [...body.rows];
  const count = document.getElementById('count');
  const value = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
  const numeric = v => v !== '' && !Number.isNaN(Number(v));
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    head.onclick = () => {
      const down = head.dataset.order !== 'down';
      for (const other of head.parentNode.cells) delete other.dataset.order;
      head.dataset.order = down ? 'down' : 'up';
      rows.sort((a, b) => {
        const x = value(a, i), y = value(b, i);
        if (x === '' || y === '') return (x === '') - (y === '');  // unknown values stay at the end
        const order = numeric(x) && numeric(y) ? Number(x) - Number(y) : x.localeCompare(y);
        return down ? order : -order;
      });
      body.append(...rows);
    };
  });
  const filter = document.getElementById('filter');
  filter.oninput = () => {
    const word = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !(row.cells[0].textContent + ' ' + row.cells[1].textContent).toLowerCase().includes(word);
    count.textContent = `${rows.filter(r => !r.hidden).length} of ${rows.length} pairs`;
  };
  filter.oninput();
})();
