/**
 * Copies of metadata texts as read from devices, kept once each: every PV of a VG holds the same bytes.
 *
 * Invariants
 *  - Two areas share a copy exactly when their bytes are equal; so damage in one area never hides behind a sound other one.
 *  - A copy is checked and parsed once, whatever the number of areas that hold it.
 *  - What fails says how far it got: no sound bytes, no summary (which VG is it?), no metadata (the VG is known, its content
 *    is not usable).
 */
import type { RawLocn } from '../ondisk/mda.ts';
import { verifyText } from '../ondisk/mda.ts';
import { FormatError } from '../ondisk/errors.ts';
import type { Where } from '../ondisk/errors.ts';
import { parseConfig } from '../ondisk/config-parser.ts';
import type { ConfigNode, ConfigSection, MetadataText } from '../ondisk/metadata.ts';
import { formatUuid, parseUuid } from '../ondisk/uuid.ts';
import { parseMetadataText } from '../ondisk/vg-text.ts';
import { vgProblem } from './validate.ts';

/** What identifies the VG and the age of a text. */
export interface TextSummary {
  readonly vgName: string;
  /** Display form. */
  readonly vgId: string;
  readonly seqno: number;
}

/** A text's bytes as found in one or more metadata areas, with what they say. */
export interface TextCopy {
  /** Without the trailing NUL. */
  readonly bytes: Buffer;
  /** As the metadata area header states them. */
  readonly checksum: number;
  readonly size: number;
  /** The bytes are not what the header's checksum was made of. */
  readonly damaged: boolean;
  /** Null: not known which VG this is. */
  readonly summary: TextSummary | null;
  /** Null: not usable. */
  readonly metadata: MetadataText | null;
  /** Why `metadata` is null, for people. */
  readonly failure: string | null;
}

/** A copy whose metadata can be used. */
export interface UsableCopy extends TextCopy {
  readonly summary: TextSummary;
  readonly metadata: MetadataText;
}

export function isUsable(copy: TextCopy): copy is UsableCopy {
  return copy.metadata !== null && copy.summary !== null;
}

export class TextStore {
  readonly #buffers = new Map<string, Buffer[]>();
  readonly #copies = new Map<Buffer, TextCopy>();

  /** The one buffer that is kept of equal bytes read from where `locn` points to, NUL included. */
  intern(bytes: Buffer, locn: RawLocn): Buffer {
    const key = `${locn.checksum}:${locn.size}`;
    const same = this.#buffers.get(key) ?? [];
    const known = same.find((candidate) => candidate.equals(bytes));
    if (known === undefined) this.#buffers.set(key, [...same, bytes]);
    return known ?? bytes;
  }

  /** Checks and parses an interned buffer. `where` is the place that messages name: the first one asked for. */
  copyOf(bytes: Buffer, locn: RawLocn, where: Where): TextCopy {
    let copy = this.#copies.get(bytes);
    if (copy === undefined) {
      copy = readCopy(bytes, bytes.at(-1) === 0 ? bytes.subarray(0, -1) : bytes, locn, where);
      this.#copies.set(bytes, copy);
    }
    return copy;
  }
}

function readCopy(whole: Buffer, bytes: Buffer, locn: RawLocn, where: Where): TextCopy {
  const base = { bytes, checksum: locn.checksum, size: locn.size, damaged: false };
  const sound = attempt(() => verifyText(whole, locn, where));
  if (!sound.ok) return { ...base, damaged: true, summary: null, metadata: null, failure: sound.fault };
  const parsed = attempt(() => parseMetadataText(bytes, where));
  if (!parsed.ok) return { ...base, summary: summaryOf(bytes, where), metadata: null, failure: parsed.fault };
  const { name, id, seqno } = parsed.value.vg;
  const problem = vgProblem(parsed.value.vg);
  const metadata = problem === null ? parsed.value : null;
  return { ...base, summary: { vgName: name, vgId: id, seqno }, metadata, failure: problem };
}

type Attempt<Value> = { readonly ok: true; readonly value: Value } | { readonly ok: false; readonly fault: string };

/** What `work` returns, or the message of the FormatError that it throws. */
function attempt<Value>(work: () => Value): Attempt<Value> {
  try {
    return { ok: true, value: work() };
  } catch (error) {
    if (error instanceof FormatError) return { ok: false, fault: error.message };
    throw error;
  }
}

/** Which VG an unusable text speaks of; null if even that can't be told. */
function summaryOf(bytes: Buffer, where: Where): TextSummary | null {
  const parsed = attempt(() => parseConfig(bytes, where));
  if (!parsed.ok) return null;
  const vg = parsed.value.find((node): node is ConfigSection => node.node === 'section');
  const id = parseUuid(scalarOf(vg?.children, 'id') ?? '');
  const seqno = Number(scalarOf(vg?.children, 'seqno') ?? 0);
  if (scalarOf(parsed.value, 'version') !== '1') return null;
  if (vg === undefined || id === null || !Number.isSafeInteger(seqno)) return null;
  return { vgName: vg.key, vgId: formatUuid(id), seqno };
}

function scalarOf(nodes: readonly ConfigNode[] | undefined, key: string): string | null {
  const node = nodes?.find((child) => child.key === key);
  if (node?.node !== 'value' || node.value.kind === 'array') return null;
  return String(node.value.value);
}
