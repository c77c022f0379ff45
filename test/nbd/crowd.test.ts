/** Who gives way when too many negotiate. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Crowd, type Negotiator } from '../../src/nbd/crowd.ts';
import type { ClientIdentity } from '../../src/nbd/exports.ts';

class Guest implements Negotiator {
  hasChosen = false;
  readonly client: ClientIdentity;
  readonly #crowd: Crowd<Guest>;
  readonly #gone: string[];
  readonly name: string;

  constructor(crowd: Crowd<Guest>, gone: string[], name: string, address: string) {
    this.#crowd = crowd;
    this.#gone = gone;
    this.name = name;
    this.client = { kind: 'tcp', address, port: name.length };
  }

  giveWay(): void {
    this.#gone.push(this.name);
    this.#crowd.delete(this);
  }
}

function makeCrowd(most: number): { enter: (name: string, address: string) => Guest; gone: string[] } {
  const crowd = new Crowd<Guest>(most);
  const gone: string[] = [];
  return {
    gone,
    enter(name, address): Guest {
      const guest = new Guest(crowd, gone, name, address);
      crowd.add(guest);
      return guest;
    },
  };
}

describe('those who negotiate', () => {
  test('lose the oldest of who has the most, whoever comes', () => {
    const { enter, gone } = makeCrowd(4);
    for (const name of ['bad 1', 'bad 2', 'bad 3']) enter(name, '192.0.2.1');
    enter('good', '192.0.2.2');
    assert.deepEqual(gone, []);
    enter('newcomer', '192.0.2.3');
    assert.deepEqual(gone, ['bad 1']);
    enter('bad 4', '192.0.2.1');
    assert.deepEqual(gone, ['bad 1', 'bad 2']);
  });

  test('are not sent away while they wait for their volume', () => {
    const { enter, gone } = makeCrowd(2);
    for (const name of ['first', 'second']) enter(name, '192.0.2.1').hasChosen = true;
    enter('third', '192.0.2.1');
    assert.deepEqual(gone, []);
    enter('fourth', '192.0.2.1');
    assert.deepEqual(gone, ['third']);
  });

  test('are told apart by user and by machine, not by port', () => {
    const { enter, gone } = makeCrowd(2);
    enter('a', '192.0.2.1');
    enter('bb', '192.0.2.2');
    enter('ccc', '192.0.2.2');
    assert.deepEqual(gone, ['a']);
    enter('dddd', '192.0.2.1');
    assert.deepEqual(gone, ['a', 'bb']);
  });
});
