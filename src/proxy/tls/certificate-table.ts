import { createSecureContext, type SecureContext } from 'node:tls'
import { type CertificateMaterial, otherKind } from './material.js'
import { lookedUp } from './server-name.js'

/**
 * Which certificate a client gets. The exact name goes before the wildcard; certificates made at run time go before those of
 * the file that have the same name; of several of one origin the first in its list wins. Who asks for a name that none
 * has, or for none, gets the first of the file. Those whose key is of another kind than that one's are for nobody.
 */
export class CertificateTable {
  #file: readonly CertificateMaterial[] = []
  #runtime: readonly CertificateMaterial[] = []
  #byName = new Map<string, CertificateMaterial>()
  readonly #contexts = new WeakMap<CertificateMaterial, SecureContext>()

  /** Those that are not given stay. */
  set(given: { file?: readonly CertificateMaterial[]; runtime?: readonly CertificateMaterial[] }): void {
    this.#file = given.file ?? this.#file
    this.#runtime = given.runtime ?? this.#runtime
    this.#byName = new Map()
    for (const material of [...this.#runtime, ...this.#file]) {
      if (this.standard !== undefined && otherKind(material, this.standard) !== null) continue
      for (const name of material.names) if (!this.#byName.has(name)) this.#byName.set(name, material)
    }
  }

  get standard(): CertificateMaterial | undefined {
    return this.#file[0]
  }

  find(serverName: string): CertificateMaterial | undefined {
    const [exact, wildcard] = lookedUp(serverName)
    return this.#byName.get(exact) ?? this.#byName.get(wildcard) ?? this.standard
  }

  hasInFile(name: string): boolean {
    return this.#file.some(({ names }) => names.includes(name))
  }

  /** What a certificate of the state is used for here; it is known by what it says. */
  standing(
    origin: 'file' | 'runtime',
    { fingerprint, names }: { fingerprint: string; names: readonly string[] },
  ): { inForce: string[]; standard: boolean } {
    const all = origin === 'file' ? this.#file : this.#runtime
    const is = (one: CertificateMaterial) =>
      one.fingerprint === fingerprint && one.names.join() === names.join()
    const material = all.find(is)
    const inForce = material?.names.filter(name => this.#byName.get(name) === material) ?? []
    return { inForce, standard: material !== undefined && material === this.standard }
  }

  /** null: the default's. Made when it is first asked for. */
  contextFor(serverName: string): SecureContext | null {
    const material = this.find(serverName)
    if (material === undefined || material === this.standard) return null
    let context = this.#contexts.get(material)
    if (context === undefined) {
      const { chain: cert, key } = material
      this.#contexts.set(material, (context = createSecureContext({ cert, key })))
    }
    return context
  }
}
