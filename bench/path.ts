/**
 * What our part of a request costs: ns and bytes allocated per request of decoding, of mapping, and of the whole path from
 * received bytes to collected replies, in turns of 32 requests over a device that does nothing.
 *
 *     node bench/path.ts
 */
import { codec, mapper, measure, type Round, wholePath } from './path-load.ts';

const ROUNDS = 20_000;

function show(name: string, round: Round): void {
  const { ns, bytes } = measure(round, ROUNDS);
  process.stdout.write(
    `| ${name.padEnd(36)} | ${ns.toFixed(0).padStart(5)} ns | ${bytes.toFixed(1).padStart(6)} B |\n`,
  );
}

show('decode and judge', codec());
show('map, one linear segment', mapper());
show('whole path, READ of 4 KiB', wholePath(0, 4096));
show('whole path, WRITE of 512 bytes', wholePath(1, 512));
show('whole path, WRITE of 4 KiB, one copy', wholePath(1, 4096));
