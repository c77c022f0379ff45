/**
 * Which devices the patterns of devices/global_filter and devices/filter let through.
 *
 *     a|REGEX|   accept        r|REGEX|   reject        any character, or a pair of brackets, around the expression
 *
 * Invariants
 *  - The first pattern that a name matches decides for that name; a device is let through if one of its names is accepted, or if
 *    none is rejected.
 *  - The name that was accepted is the one to call the device by.
 *
 * Source: lvm.conf(5) devices/filter; compared with LVM2 2.03.16.
 */
import { compileRegex } from './dm-regex.ts';
import { CommandError } from './edit/errors.ts';
import type { Settings } from './settings.ts';

interface Pattern {
  readonly accept: boolean;
  readonly regex: RegExp;
}

const CLOSING: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

export class DeviceFilter {
  readonly #patterns: readonly Pattern[];

  /** Throws CommandError for a pattern that is none. */
  constructor(patterns: readonly string[]) {
    this.#patterns = patterns.map(parsePattern);
  }

  /** The name to use for a device with these names, the preferred one first; null: the device is rejected. */
  nameOf(names: readonly string[]): string | null {
    let rejected = false;
    for (const name of names) {
      const decided = this.#patterns.find(({ regex }) => regex.test(name));
      if (decided?.accept === true) return name;
      if (decided !== undefined) rejected = true;
    }
    return rejected ? null : (names[0] ?? null);
  }
}

/** The filters of the settings: a device must pass both. Throws CommandError. */
export function deviceFilters(settings: Settings): readonly DeviceFilter[] {
  return [
    new DeviceFilter(settings.strings('devices/global_filter')),
    new DeviceFilter(settings.strings('devices/filter')),
  ];
}

function parsePattern(text: string): Pattern {
  const invalid = (reason: string): CommandError => {
    return new CommandError([reason, `Invalid filter pattern "${text}".`, 'Failed to create regex device filter']);
  };
  const kind = text[0];
  if (kind !== 'a' && kind !== 'r') throw invalid("Pattern must begin with 'a' or 'r'.");
  const opening = text[1] ?? '';
  if (text.length < 3 || !text.endsWith(CLOSING[opening] ?? opening)) {
    throw invalid('Invalid separator at end of regex.');
  }
  const regex = compileRegex(text.slice(2, -1));
  if (regex === null) throw invalid('Invalid regular expression.');
  return { accept: kind === 'a', regex };
}
