import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { billOf } from '../../../tools/release/sbom.mjs'
import { bundledModules, insideBy, installedWith } from '../../../tools/release/shipped.mjs'

const LOCK = {
  packages: {
    '': {},
    'node_modules/a': {
      version: '1.0.0',
      license: 'MIT',
      integrity: `sha512-${Buffer.from('aa').toString('base64')}`,
      resolved: 'https://host.test/a.tgz',
      dependencies: { b: '^1', '@scope/c': '*' },
      optionalDependencies: { 'only-here': '*' },
    },
    'node_modules/b': { version: '2.0.0', license: '(MIT OR Apache-2.0)' },
    'node_modules/a/node_modules/b': { version: '1.5.0', dependencies: { '@scope/c': '*' } },
    'node_modules/@scope/c': { version: '3.0.0', license: 'ISC' },
    'node_modules/only-here': { version: '4.0.0' },
    'node_modules/tool': { version: '9.0.0', dependencies: { b: '*' } },
  },
}
const manifest = { name: 'fd-broker', version: '1.2.3', license: 'Apache-2.0', dependencies: { a: '^1' } }
const rest = {
  manifest,
  home: { url: 'https://host.test/o/n', decided: true },
  sha256: 'ab'.repeat(32),
  time: new Date(0),
}

describe('the packages of a user', () => {
  it('follow from dependencies, each found as Node finds it', () => {
    const found = installedWith(LOCK, ['a'])
    expect(found.map(({ path, version }) => [path, version])).toEqual([
      ['node_modules/@scope/c', '3.0.0'],
      ['node_modules/a', '1.0.0'],
      ['node_modules/a/node_modules/b', '1.5.0'],
    ])
    expect(installedWith(LOCK, ['tool']).map(({ path }) => path)).toEqual([
      'node_modules/b',
      'node_modules/tool',
    ])
    expect(() => installedWith(LOCK, ['gone'])).toThrow('no gone')
  })

  it('stand in the bill of materials, the installed and the bundled ones', () => {
    const modules = [
      'node_modules/tool/index.js',
      'src/a.js',
      'node_modules/b/lib/b.js',
      'node_modules/tool/more.js',
    ]
    const shipped = [...installedWith(LOCK, ['a']), ...insideBy(LOCK, modules)]
    const bill = billOf({ ...rest, shipped })
    expect(bill).toMatchObject({ bomFormat: 'CycloneDX', specVersion: '1.5', version: 1 })
    expect(bill.serialNumber).toMatch(
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    )
    expect(bill.metadata.component).toMatchObject({
      name: 'fd-broker',
      hashes: [{ alg: 'SHA-256', content: rest.sha256 }],
    })
    const inside = bill.components.filter(({ properties }) => properties !== undefined)
    expect(inside.map(({ purl }) => purl)).toEqual(['pkg:npm/b@2.0.0', 'pkg:npm/tool@9.0.0'])
    expect(bill.components.find(({ name }) => name === 'a')).toMatchObject({
      hashes: [{ alg: 'SHA-512', content: '6161' }],
      licenses: [{ license: { id: 'MIT' } }],
      externalReferences: [{ type: 'distribution', url: 'https://host.test/a.tgz' }],
    })
    expect(bill.components.map(({ purl }) => purl)).toContain('pkg:npm/%40scope/c@3.0.0')
    const graph = Object.fromEntries(bill.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn]))
    expect(graph).toEqual({
      'fd-broker@1.2.3': ['a@1.0.0', 'tool@9.0.0'],
      '@scope/c@3.0.0': [],
      'a@1.0.0': ['@scope/c@3.0.0', 'b@1.5.0'],
      'b@1.5.0': ['@scope/c@3.0.0'],
      'b@2.0.0': [],
      'tool@9.0.0': ['b@2.0.0'],
    })
  })

  it('give the same bill for the same tarball', () => {
    const shipped = installedWith(LOCK, ['a'])
    expect(billOf({ ...rest, shipped })).toEqual(billOf({ ...rest, shipped: [...shipped].reverse() }))
  })

  it('has a license and a hash for everything that is shipped', () => {
    const read = (name: string) =>
      JSON.parse(readFileSync(new URL(`../../../${name}`, import.meta.url), 'utf8'))
    const own = read('package.json')
    const lock = read('package-lock.json')
    const root = fileURLToPath(new URL('../../..', import.meta.url))
    const inside = insideBy(lock, bundledModules(root))
    expect(inside.map(({ name }) => name)).toContain('protobufjs')
    const shipped = [...installedWith(lock, Object.keys(own.dependencies ?? {})), ...inside]
    for (const { purl, licenses, hashes } of billOf({ ...rest, manifest: own, shipped }).components)
      expect({ purl, licenses: licenses.length, hashes: hashes.length }).toEqual({
        purl,
        licenses: 1,
        hashes: 1,
      })
  })
})
