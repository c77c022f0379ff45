/** /metrics: the text follows the exposition format to the letter, and docs/metrics.md lists what there is. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CacheCounters } from '../../src/block/cache/stats.ts';
import { Op } from '../../src/block/request.ts';
import { IoStats } from '../../src/dm/io-stats.ts';
import { METRICS, prometheusText } from '../../src/observe/prometheus.ts';
import { addIo, ioSince, type Numbers, processNumbers, quantile } from '../../src/observe/stats.ts';
import { CHECKOUT } from '../helpers/shared.ts';

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Parses the text format and asserts what scrapers may rely on. */
function parse(text: string): Map<string, { type: string; samples: Sample[] }> {
  assert.ok(text.endsWith('\n') && !text.includes('\n\n') && !text.includes('\r'));
  const families = new Map<string, { type: string; samples: Sample[] }>();
  const seen = new Set<string>();
  const lines = text.slice(0, -1).split('\n');
  for (let i = 0; i < lines.length;) {
    const [, name = ''] = /^# HELP ([a-z_]+) [^\\]+$/.exec(lines[i++] ?? '') ?? assert.fail(`no HELP: ${lines[i - 1]}`);
    const [, typed, type = ''] = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(lines[i++] ?? '') ?? [];
    assert.equal(typed, name);
    assert.ok(!families.has(name), `${name} twice`);
    const samples: Sample[] = [];
    for (; i < lines.length && !(lines[i] ?? '').startsWith('#'); i++) {
      const line = lines[i] ?? '';
      const [, sample = '', labelText = '', value = ''] =
        /^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)+)\})? (\S+)$/.exec(line) ?? assert.fail(line);
      const labels = Object.fromEntries(
        [...labelText.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text_]) => [key, text_ ?? '']),
      ) as Record<string, string>;
      const key = `${sample}{${labelText}}`;
      assert.ok(!seen.has(key), `${key} twice`);
      seen.add(key);
      assert.ok(sample === name || (type === 'histogram' && sample.startsWith(`${name}_`)), `${sample} under ${name}`);
      assert.match(value, /^-?(\d+(\.\d+)?(e[+-]?\d+)?|\+Inf|NaN)$/);
      samples.push({ name: sample, labels, value: Number(value) });
    }
    assert.ok(samples.length > 0);
    families.set(name, { type, samples });
  }
  return families;
}

function io(): IoStats {
  const stats = new IoStats();
  for (const [op, bytes, milliseconds, errno] of [
    [Op.read, 4096, 0.1, 0],
    [Op.read, 4096, 3, 0],
    [Op.read, 4096, 900, 5],
    [Op.write, 512, 0, 0],
    [Op.flush, 0, 1e9, 0],
  ] as const) {
    stats.started();
    stats.ended(op, bytes, milliseconds * 1000, errno);
  }
  stats.started();
  return stats;
}

const NUMBERS: Numbers = {
  time: 2000,
  startedAt: 1000,
  version: '1.2.3',
  connections: 3,
  supervisor: processNumbers(),
  workers: [
    { index: 0, restarts: 1, volumes: 2, connections: 2, ...processNumbers() },
    { index: 1, restarts: 0, volumes: 0, connections: 0, ...processNumbers() },
  ],
  volumes: [
    { name: 'vg0/a', sizeBytes: 4096, clients: 2, io: io().snapshot() },
    { name: 'vg0/idle', sizeBytes: 4096, clients: 0, io: new IoStats().snapshot() },
    { name: 'vg0/new', sizeBytes: 4096, clients: 0, io: null },
  ],
  devices: [
    {
      path: '/dev/odd "name"\\\n',
      sizeBytes: 1,
      up: true,
      io: io().snapshot(),
      cache: new CacheCounters().snapshot(1, 2),
    },
    { path: '/dev/gone', sizeBytes: 1, up: false, io: null },
  ],
  groups: [
    {
      name: 'vg0',
      extentBytes: 4096,
      extents: 10,
      freeExtents: 4,
      seqno: 7,
      physicalVolumes: 2,
      missingPhysicalVolumes: 1,
      staleCopies: 1,
    },
  ],
  snapshots: [
    {
      name: 'vg0/s',
      valid: true,
      usedBytes: 8192,
      totalBytes: 2 ** 20,
      metadataBytes: 4096,
      percent: 0.8,
      exceptions: 1,
      exceptionBytes: 49_152,
      copiedBytes: 4096,
      copiedChunks: 1,
      bytesPerSecond: 0,
      secondsToFull: null,
    },
  ],
  clients: [],
  alerts: { 'device-errors': 2 },
};

describe('/metrics', () => {
  const families = parse(prometheusText(NUMBERS));
  const samples = (name: string): readonly Sample[] => families.get(name)?.samples ?? [];

  test('every metric there is has a sample, with its type; counters end in _total', () => {
    assert.deepEqual([...families.keys()], [...METRICS.keys()]);
    for (const [name, { type }] of families) {
      assert.equal(type, METRICS.get(name)?.[0]);
      assert.equal(name.endsWith('_total'), type === 'counter', name);
    }
  });

  test('docs/metrics.md lists them with the same words', () => {
    const docs = readFileSync(join(CHECKOUT, 'docs/metrics.md'), 'utf8');
    const rows = [...docs.matchAll(/^\| `(\w+)` \| (\w+) \| (.*) \|$/gm)].map(([, ...row]) => row);
    assert.deepEqual(
      rows,
      [...METRICS].map(([name, [type, help]]) => [name, type, help]),
    );
  });

  test('histograms are cumulative, end with +Inf, and agree with their count', () => {
    for (const kind of ['lv', 'device'] as const) {
      const name = `orion_lvm_${kind}_latency_seconds`;
      const own = samples(name).filter(({ labels }) => labels['op'] === 'read');
      const buckets = own.filter((sample) => sample.name === `${name}_bucket`);
      const bounds = buckets.map(({ labels }) => Number(labels['le']?.replace('+Inf', 'Infinity')));
      assert.deepEqual(
        bounds,
        bounds.toSorted((a, b) => a - b),
      );
      assert.equal(bounds.at(-1), Infinity);
      assert.ok(buckets.every(({ value }, i) => i === 0 || value >= (buckets[i - 1]?.value ?? 0)));
      assert.equal(buckets.at(-1)?.value, 3);
      assert.equal(own.find((sample) => sample.name === `${name}_count`)?.value, 3);
      assert.ok(Math.abs((own.find((sample) => sample.name === `${name}_sum`)?.value ?? 0) - 0.9031) < 1e-9);
      // 0.1 ms is below 128 us and not below 64 us.
      assert.deepEqual(
        [6.4e-5, 1.28e-4].map((le) => buckets.find(({ labels }) => labels['le'] === String(le))?.value),
        [0, 1],
      );
    }
  });

  test('values and labels', () => {
    assert.deepEqual(
      samples('orion_lvm_lv_bytes_total').map(({ labels, value }) => [labels['lv'], labels['op'], value]),
      [
        ['a', 'read', 8192],
        ['a', 'write', 512],
      ],
    );
    assert.deepEqual(samples('orion_lvm_lv_errors_total')[0]?.value, 1);
    assert.deepEqual(samples('orion_lvm_lv_in_flight')[0]?.value, 1);
    assert.equal(samples('orion_lvm_device_up')[0]?.labels['device'], '/dev/odd \\"name\\"\\\\\\n');
    assert.equal(samples('orion_lvm_vg_free_bytes')[0]?.value, 16_384);
    assert.equal(samples('orion_lvm_process_cpu_seconds_total').length, 6);
  });
});

describe('numbers', () => {
  test('what two workers count of one device is added up; what came since is the difference', () => {
    const [a, b] = [io().snapshot(), io().snapshot()];
    const both = addIo(a, b);
    assert.equal(both?.ops.read.ended, 6);
    assert.equal(both?.inFlight, 2);
    assert.deepEqual(addIo(null, a), a);
    assert.deepEqual(ioSince(b, both ?? a), { ...a, inFlight: 2 });
    assert.equal(ioSince(both, a), a, 'a worker that died counts anew');
  });

  test('quantiles are inside their bucket', () => {
    const latency = Array.from({ length: 27 }, () => 0);
    latency[7] = 90; // 64 to 128 us
    latency[10] = 10; // 512 to 1024 us
    assert.ok(quantile(latency, 0.5) > 0.064 && quantile(latency, 0.5) <= 0.128);
    assert.ok(quantile(latency, 0.99) > 0.512 && quantile(latency, 0.99) <= 1.024);
    assert.equal(quantile(latency, 1), 1.024);
    assert.equal(quantile([], 0.5), 0);
  });
});
