/**
 * LVM2's settings as a command sees them: a stack of configurations, of which the first that has a setting decides.
 *
 *     --config string  >  command profile  >  metadata profile  >  lvmlocal.conf  >  lvm.conf  >  the default
 *
 * Invariants
 *  - Names are LVM2's ("devices/filter") and checked by the compiler; a value has its node's type or counts as not given.
 *  - Of a setting given twice in one configuration the last holds, as in LVM2.
 *  - Values that LVM2 would refuse were reported when the configuration was read (settings/check.ts), so reading is silent.
 *
 * Source: lvm.conf(5), lvmconfig(8); the precedence observed with 2.03.16.
 */
import { join } from 'node:path';
import type { ConfigNode, ConfigValue } from '../ondisk/metadata.ts';
import { NODES, type SettingNode } from './settings/nodes.ts';
import { boolOf, findValue, intOf, stringOf, stringsOf } from './settings/values.ts';

type Nodes = typeof NODES;
type PathOf<Type> = { [Path in keyof Nodes]: Nodes[Path]['type'] extends Type ? Path : never }[keyof Nodes];
/** Null for settings that have no default. */
type Unset<Path extends keyof Nodes> = Nodes[Path]['default'] extends null
  ? Nodes[Path] extends { readonly systemDirectory: string }
    ? never
    : null
  : never;

export type BoolSetting = PathOf<'bool'>;
export type IntSetting = PathOf<'int'>;
export type StringSetting = PathOf<'string'>;
export type StringsSetting = PathOf<'strings'>;
export type SettingPath = keyof Nodes;

/** Where a layer comes from: decides what it may hold, and which layers `lvmconfig` merges. */
export type LayerSource = 'string' | 'command-profile' | 'metadata-profile' | 'file';

export interface SettingsLayer {
  readonly source: LayerSource;
  readonly nodes: readonly ConfigNode[];
}

export class Settings {
  /** The strongest first. */
  readonly layers: readonly SettingsLayer[];
  /** $LVM_SYSTEM_DIR: where lvm.conf, profiles, backups and archives are. */
  readonly systemDirectory: string;

  constructor(layers: readonly SettingsLayer[] = [], systemDirectory = '/etc/lvm') {
    this.layers = layers;
    this.systemDirectory = systemDirectory;
  }

  /** Whether some configuration gives it. */
  has(path: SettingPath): boolean {
    return this.#given(path, (value) => value) !== null;
  }

  bool(path: BoolSetting): boolean {
    const node: SettingNode = NODES[path];
    return this.#given(path, boolOf) ?? node.default === true;
  }

  int<Path extends IntSetting>(path: Path): number | Unset<Path>;
  int(path: IntSetting): number | null {
    const node: SettingNode = NODES[path];
    return this.#given(path, intOf) ?? (typeof node.default === 'number' ? node.default : null);
  }

  string<Path extends StringSetting>(path: Path): string | Unset<Path>;
  string(path: StringSetting): string | null {
    const node: SettingNode = NODES[path];
    const given = this.#given(path, (value) => stringOf(value, node.mayBeEmpty === true));
    if (given !== null) return given;
    if (node.systemDirectory !== undefined) return join(this.systemDirectory, node.systemDirectory);
    return typeof node.default === 'string' ? node.default : null;
  }

  strings<Path extends StringsSetting>(path: Path): readonly string[] | Unset<Path>;
  strings(path: StringsSetting): readonly string[] | null {
    const node: SettingNode = NODES[path];
    const given = this.#given(path, (value) => stringsOf(value, node.mayBeEmpty === true));
    return given ?? (Array.isArray(node.default) ? node.default.map(String) : null);
  }

  /** With one more configuration on top of those of weaker sources. */
  with(layer: SettingsLayer): Settings {
    const at = this.layers.findIndex(({ source }) => STRENGTH.indexOf(source) >= STRENGTH.indexOf(layer.source));
    const split = at < 0 ? this.layers.length : at;
    const layers = [...this.layers.slice(0, split), layer, ...this.layers.slice(split)];
    return new Settings(layers, this.systemDirectory);
  }

  #given<Value>(path: SettingPath, read: (value: ConfigValue) => Value | null): Value | null {
    for (const { nodes } of this.layers) {
      const value = findValue(nodes, path);
      const given = value === null ? null : read(value);
      if (given !== null) return given;
    }
    return null;
  }
}

const STRENGTH: readonly LayerSource[] = ['string', 'command-profile', 'metadata-profile', 'file'];
