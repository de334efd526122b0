(async () => {
  const $ = id => document.getElementById(id), state = $('viewer-state');
  const stop = reason => { state.textContent = `The viewer cannot start: ${reason}. The pictures below show one slice.`; };
  if (!window.DecompressionStream) return stop('the browser is too old');
  if (!document.createElement('canvas').getContext('webgl2')) return stop('WebGL 2 is not available');
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const unpack = async text => new Uint8Array(await new Response(
    new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer());
  try {
    const data = JSON.parse($('viewer-data').textContent);
    const code = document.createElement('script');
    code.textContent = new TextDecoder().decode(await unpack($('niivue').textContent.trim()));
    document.head.append(code);
    const {Niivue, NVImage} = window.niivue;

    // Geometry: 4 x 4 matrices map RAS mm to voxels; arrays are stored with the first axis fastest.
    const apply = (m, p) => [0, 1, 2].map(i => m[i][0] * p[0] + m[i][1] * p[1] + m[i][2] * p[2] + m[i][3]);
    const field = data.field && {...data.field, values: new Int16Array((await unpack(data.field.data)).buffer)};
    const displacement = p => {
      const [nx, ny, nz] = field.shape, limits = field.shape, size = nx * ny * nz;
      const at = apply(field.to_voxel, p).map((v, i) => Math.min(Math.max(v, 0), limits[i] - 1));
      const low = at.map((v, i) => Math.min(Math.floor(v), Math.max(limits[i] - 2, 0))), part = at.map((v, i) => v - low[i]);
      const u = [0, 0, 0];
      for (let corner = 0; corner < 8; corner++) {
        const c = [corner & 1, (corner >> 1) & 1, corner >> 2], q = low.map((v, i) => Math.min(v + c[i], limits[i] - 1));
        const weight = c.reduce((w, b, i) => w * (b ? part[i] : 1 - part[i]), 1);
        for (let i = 0; i < 3; i++) u[i] += weight * field.values[i * size + q[0] + nx * (q[1] + ny * q[2])] * field.scale[i];
      }
      return u;
    };
    const toMoving = p => field ? p.map((v, i) => v + displacement(p)[i]) : apply(data.fixed_to_moving, p);
    const toFixed = m => {
      let p = apply(data.moving_to_fixed, m);
      for (let step = 0; field && step < 30; step++) { const found = toMoving(p); p = p.map((v, i) => v + 0.7 * (m[i] - found[i])); }
      return p;
    };

    // Colours: one per pair, the same in all views.
    const rgb = data.pairs.map(p => p.rgb), numbers = rgb.map((_, k) => k + 1).filter(n => n < 256);
    const labels = {R: [0], G: [0], B: [0], A: [0], I: [0], labels: ['']};
    for (const n of numbers) {
      const [r, g, b] = rgb[n - 1];
      labels.R.push(r); labels.G.push(g); labels.B.push(b); labels.A.push(255); labels.I.push(n); labels.labels.push('');
    }
    const volume = async (name, colormap, opacity, range = [NaN, NaN]) => NVImage.loadFromBase64({
      base64: data.volumes[name], name: `${name}.nii.gz`, colormap, opacity, cal_min: range[0], cal_max: range[1],
      colorbarVisible: false});
    const overlay = async name => {
      const image = await volume(name, 'gray', 0.4);
      image.setColormapLabel(labels);
      return image;
    };

    const maps = Object.keys(data.maps);
    const start = async (id, images) => {
      const nv = new Niivue({backColor: [0, 0, 0, 1], isRadiologicalConvention: true, multiplanarShowRender: 0,
        sliceType: data.ndim === 3 ? 3 : 0, isColorbar: false, showLegend: false, dragAndDropEnabled: false, logLevel: 'error',
        crosshairWidth: 1, isNearestInterpolation: false, multiplanarLayout: 2});
      await nv.attachToCanvas($(id), false);
      for (const name of maps) nv.addColormap(name, data.maps[name]);
      for (const image of images) {
        const name = image.name.split('.')[0];
        if (data.maps[name]) image.colormap = name;
      }
      nv.volumes = images.slice(0, -1);  // each call of addVolume draws all of them
      nv.addVolume(images[images.length - 1]);
      return nv;
    };
    const two = role => data.regions ? [[`regions_${role}`, 'overlay'], [`regions_${role}`, 'overlay']] : [];
    const load = async list => Promise.all(list.map(([name, kind, opacity = 1, range]) =>
      kind === 'overlay' ? overlay(name) : volume(name, kind, opacity, range)));
    const layersOn = {fixed: ['fixed', ...two('fixed').map((_, i) => ['all', 'one'][i]), ...maps],
      moving: ['moving', ...two('moving').map((_, i) => ['all', 'one'][i])],
      moved: ['fixed', 'before', ...(data.volumes.after ? ['after', ...maps, 'grid'] : [])]};
    const mapVolumes = maps.map(name => [name, 'gray', 0, [0, 255]]);
    const views = {
      fixed: await start('view-fixed', await load([['fixed', 'gray', 1, [0, 255]], ...two('fixed'), ...mapVolumes])),
      moving: await start('view-moving', await load([['moving', 'gray', 1, [0, 255]], ...two('moving')])),
      moved: await start('view-moved', await load([['fixed', 'gray', 1, [0, 255]], ['before', 'gray', 0, [0, 255]],
        ...(data.volumes.after ? [['after', 'gray', 1, [0, 255]], ...mapVolumes, ['grid', 'warm', 0, [0, 255]]] : [])])),
    };
    const stale = new Set();  // views whose volumes have changed; each is drawn once
    const fade = (view, name, opacity) => {
      const image = views[view].volumes[layersOn[view].indexOf(name)];
      if (!image || image.opacity === opacity) return;
      image.opacity = opacity;
      stale.add(view);
    };
    const redraw = () => {
      for (const view of stale) views[view].updateGLVolume();
      stale.clear();
    };

    // Regions: exact masks in layers; a region is drawn alone over the quick view of all.
    const layers = {};
    for (const role of data.regions ? ['fixed', 'moving'] : []) {
      const raw = (await unpack(data.regions[role].data)).buffer;
      layers[role] = {...data.regions[role], values: data.regions[role].wide ? new Uint16Array(raw) : new Uint8Array(raw)};
    }
    const inside = (role, n, offset) => {
      const {values, shape, layer} = layers[role];
      return values[layer[n - 1] * shape[0] * shape[1] * shape[2] + offset] === n;
    };
    const regionAt = (role, p) => {
      const {shape, to_voxel} = layers[role], v = apply(to_voxel, p).map(Math.round);
      if (v.some((x, i) => x < 0 || x >= shape[i])) return 0;
      return data.smallest_first[role].find(n => inside(role, n, v[0] + shape[0] * (v[1] + shape[1] * v[2]))) || 0;
    };
    let chosen = 0;
    const choose = n => {
      if (n === chosen || !data.regions) return;
      chosen = n;
      for (const role of ['fixed', 'moving']) {
        const {shape} = layers[role], image = views[role].volumes[layersOn[role].indexOf('one')];
        for (let i = 0; i < shape[0] * shape[1] * shape[2]; i++) image.img[i] = n && n < 256 && inside(role, n, i) ? n : 0;
        stale.add(role);
      }
      document.querySelectorAll('tr[data-pair]').forEach(r => r.classList.toggle('chosen', Number(r.dataset.pair) === n));
      $('pair').textContent = n ? `pair ${n}, score ${data.pairs[n - 1].score.toFixed(2)}` : '';
      paint();
    };
    const paint = () => {
      const opacity = Number($('regions').value);
      for (const role of ['fixed', 'moving']) {
        fade(role, 'all', chosen ? opacity / 3 : opacity);
        fade(role, 'one', chosen ? Math.max(opacity, 0.6) : 0);
      }
      redraw();
    };

    // Crosshairs: what is under the cursor in one image is shown in the others.
    const where = view => [...views[view].frac2mm(views[view].scene.crosshairPos, 0, true)].slice(0, 3);
    const show = (view, p) => {
      const frac = views[view].mm2frac(p, 0, true);
      views[view].scene.crosshairPos = [0, 1, 2].map(i => Math.min(Math.max(frac[i], 0), 1));
      views[view].drawScene();
    };
    const text = p => `(${p.map(v => v.toFixed(1)).join(', ')}) mm`;
    const link = (p, m, from) => {
      if (from !== 'fixed') show('fixed', p);
      if (from !== 'moving') show('moving', m);
      if (from !== 'moved') show('moved', p);
      $('at-fixed').textContent = text(p);
      $('at-moving').textContent = text(m);
      window.viewer.last = {fixed: p, moving: m};
    };
    const moved = view => () => {
      const here = where(view), p = view === 'moving' ? toFixed(here) : here, m = view === 'moving' ? here : toMoving(p);
      link(p, m, view);
      if (data.regions) choose(view === 'moving' ? regionAt('moving', m) : regionAt('fixed', p));
    };
    const jump = n => {
      const pair = data.pairs[n - 1];
      link(pair.fixed, field ? toMoving(pair.fixed) : pair.moving, '');
      choose(n);
    };
    window.viewer = {views, where, jump, toMoving, toFixed, show, moved, chosen: () => chosen};
    for (const view of Object.keys(views)) views[view].onLocationChange = moved(view);

    document.querySelectorAll('tr[data-pair]').forEach(r => { r.onclick = () => {
      jump(Number(r.dataset.pair));
      $('viewer').scrollIntoView();
    }; });
    $('regions').oninput = paint;
    if ($('slices')) $('slices').onchange = e => Object.values(views).forEach(nv => nv.setSliceType(Number(e.target.value)));
    const blend = () => {
      const share = $('stage') ? Number($('stage').value) : 0, opacity = Number($('opacity').value);
      fade('moved', 'before', opacity * (1 - share) / (1 - opacity * share || 1));
      fade('moved', 'after', opacity * share);
      redraw();
    };
    $('opacity').oninput = blend;
    if ($('stage')) {
      $('stage').oninput = blend;
      let timer = null;
      $('flicker').onclick = () => {
        if (timer) { clearInterval(timer); timer = null; return; }
        timer = setInterval(() => { $('stage').value = Number($('stage').value) > 0.5 ? 0 : 1; blend(); }, 450);
      };
      $('map').onchange = e => {
        for (const view of ['fixed', 'moved']) for (const name of maps) fade(view, name, name === e.target.value ? 0.6 : 0);
        redraw();
        $('legend').textContent = data.maps[e.target.value]?.legend || '';
      };
      $('grid').onchange = e => {
        fade('moved', 'grid', e.target.checked ? 0.8 : 0);
        redraw();
      };
    }
    blend();
    paint();
    link(data.centre, toMoving(data.centre), '');
    state.textContent = '';
    document.body.dataset.viewer = 'ready';
  } catch (error) {
    stop(error.message);
    throw error;
  }
})();
