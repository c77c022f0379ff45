/**
 * What TLS costs: ours and nbdkit's, each with and without it, on the same file in memory over unix sockets.
 *
 *     node bench/tls.ts [--size MiB] [--rounds N] [--workers N] [--against CHECKOUT]
 *
 * Copies by nbdcopy (libnbd with GnuTLS; one connection, which is one stream of TLS), in requests of 256 KiB, and reads of 4 KiB. CPU is that of
 * the server with all of its processes. With another checkout its daemon takes part, too, as "before". Servers take turns within each round, and medians are printed, so that figures of one run can be compared.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { makeAuthority, makeClient, makeServer } from '../src/cli/tls/certificates.ts';
import { type Served, startOurs, startPeers } from './servers.ts';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '5' },
    workers: { type: 'string', default: '2' },
    against: { type: 'string', default: '' },
  },
});
const sizeMiB = Number(values.size);
const rounds = Number(values.rounds);
const workers = Number(values.workers);
const SMALL_BYTES = 4096;

interface Sample {
  /** MB/s, or thousands of requests a second. */
  readonly rate: number;
  /** CPU seconds of the server for each GB, or million requests. */
  readonly cpu: number;
}

interface Candidate {
  readonly label: string;
  readonly served: Served;
  readonly uri: string;
}

async function credentials(directory: string): Promise<string> {
  const tls = join(directory, 'tls');
  mkdirSync(tls);
  const now = Date.now();
  const authority = await makeAuthority(2, now);
  const [server, client] = await Promise.all([
    makeServer(['localhost'], authority, 2, now),
    makeClient('bench', authority, 2, now),
  ]);
  writeFileSync(join(tls, 'ca-cert.pem'), authority.certificate);
  for (const [name, { certificate, key }] of Object.entries({ server, client })) {
    writeFileSync(join(tls, `${name}-cert.pem`), certificate);
    writeFileSync(join(tls, `${name}-key.pem`), key, { mode: 0o600 });
  }
  return tls;
}

function run(program: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 24 });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

function copy(from: string, to: string, { served }: Candidate, requestBytes = 256 * 1024): Sample {
  const [cpuBefore, begun] = [served.cpu(), performance.now()];
  const size = `--request-size=${requestBytes}`;
  run('nbdcopy', ['--connections=1', '--requests=16', size, '--no-extents', from, to]);
  const seconds = (performance.now() - begun) / 1000;
  const bytes = sizeMiB * 2 ** 20;
  return { rate: bytes / seconds / 1e6, cpu: (served.cpu() - cpuBefore) / 1e6 / (bytes / 1e9) };
}

/** Requests one by one, of 4 KiB each. */
function smallReads(candidate: Candidate): Sample {
  const { rate, cpu } = copy(candidate.uri, 'null:', candidate, SMALL_BYTES);
  return { rate: (rate * 1e6) / SMALL_BYTES / 1000, cpu: (cpu / 1e9) * SMALL_BYTES * 1e6 };
}

function addressOf({ exportNames, socket }: Served): string {
  return `${exportNames[0]}?socket=${socket}`;
}

function median(samples: readonly Sample[], of: keyof Sample): number {
  const sorted = samples.map((sample) => sample[of]).toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const directory = mkdtempSync('/dev/shm/orion-lvm-tls-bench-');
const candidates: Candidate[] = [];
try {
  const tls = await credentials(directory);
  for (const secure of [false, true]) {
    const place = join(directory, secure ? 'secure' : 'plain');
    mkdirSync(place);
    const label = secure ? 'TLS' : 'plain text';
    const own = secure ? ['--tls', 'required', '--tls-certificates', tls] : [];
    const theirs = secure ? ['--tls=require', `--tls-certificates=${tls}`] : [];
    const options = { engine: 'auto', workers, volumes: 1, stripes: 1, flags: own };
    const started = [{ name: 'ours', served: await startOurs(place, sizeMiB, options) }];
    if (values.against !== '') {
      const before = { ...options, label: 'before', checkout: values.against };
      started.push({ name: 'before', served: await startOurs(place, sizeMiB, before) });
    }
    for (const served of await startPeers(place, sizeMiB, ['nbdkit'], theirs))
      started.push({ name: served.name, served });
    for (const { name, served } of started) {
      const parameters = secure ? `&tls-certificates=${tls}&tls-verify-peer=false` : '';
      const uri = `${secure ? 'nbds' : 'nbd'}+unix:///${addressOf(served)}${parameters}`;
      candidates.push({ label: `${name}, ${label}`, served, uri });
    }
  }
  const results = new Map<Candidate, { read: Sample[]; write: Sample[]; small: Sample[] }>();
  const source = join(directory, 'plain', 'nbdkit.img');
  // Processes that are started at the first client.
  for (const candidate of candidates) copy(candidate.uri, 'null:', candidate);
  for (let round = 0; round < rounds; round++) {
    for (const candidate of candidates) {
      const found = results.get(candidate) ?? { read: [], write: [], small: [] };
      results.set(candidate, found);
      found.read.push(copy(candidate.uri, 'null:', candidate));
      found.write.push(copy(source, candidate.uri, candidate));
      found.small.push(smallReads(candidate));
    }
  }
  const lines = [
    `| | read MB/s | CPU s/GB | write MB/s | CPU s/GB | 4 KiB reads, depth 16: k/s | CPU s/M |`,
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...[...results].map(([{ label }, { read, write, small }]) => {
      const cells = [read, write].flatMap((samples) => [
        median(samples, 'rate').toFixed(0),
        median(samples, 'cpu').toFixed(2),
      ]);
      return `| ${label} | ${cells.join(' | ')} | ${median(small, 'rate').toFixed(1)} | ${median(small, 'cpu').toFixed(1)} |`;
    }),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
} finally {
  for (const { served } of candidates) await served.stop();
  rmSync(directory, { recursive: true, force: true });
}
