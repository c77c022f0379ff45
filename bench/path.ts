/**
 * What our part of a request costs: ns and bytes allocated per request of decoding, of mapping, of the whole path from received bytes
 * to collected replies, and of what the block cache holds, in turns of 32 requests over a device that does nothing. What is in the cache
 * ends on the next turn of the event loop, which is counted, too; the least of a few runs.
 *
 *     node bench/path.ts
 */
import { Op } from '../src/block/request.ts';
import { cached, codec, mapper, measure, measureTurns, type Round, wholePath } from './path-load.ts';

const ROUNDS = 20_000;

const SPAN_BYTES = 128 * 2 ** 20;
const REPEATS = 5;

function print(name: string, ns: number, bytes: number): void {
  process.stdout.write(
    `| ${name.padEnd(36)} | ${ns.toFixed(0).padStart(5)} ns | ${bytes.toFixed(1).padStart(6)} B |\n`,
  );
}

function show(name: string, round: Round): void {
  const { ns, bytes } = measure(round, ROUNDS);
  print(name, ns, bytes);
}

async function showTurns(name: string, round: Round): Promise<void> {
  let least = await measureTurns(round, ROUNDS);
  for (let i = 1; i < REPEATS; i++) {
    const again = await measureTurns(round, ROUNDS / 4);
    if (again.ns < least.ns) least = { ns: again.ns, bytes: least.bytes };
  }
  print(name, least.ns, least.bytes);
}

show('decode and judge', codec());
show('map, one linear segment', mapper());
show('whole path, READ of 4 KiB', wholePath(0, 4096));
show('whole path, WRITE of 512 bytes', wholePath(1, 512));
show('whole path, WRITE of 4 KiB, one copy', wholePath(1, 4096));
await showTurns('map and block cache, READ', cached(Op.read));
await showTurns('map and block cache, WRITE', cached(Op.write));
await showTurns('READ at random places of 128 MiB', cached(Op.read, SPAN_BYTES));
await showTurns('WRITE at random places of 128 MiB', cached(Op.write, SPAN_BYTES));
