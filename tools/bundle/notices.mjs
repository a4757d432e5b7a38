// @ts-check
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const HEAD = `Code of these packages is in the files of this folder, under their own licences.
`
const RULE = '-'.repeat(100)

/**
 * Returns the name, version, licence and notice of each npm package whose modules are bundled. Throws if a package has no licence file.
 * @param {string} root
 * @param {readonly string[]} modules paths of the bundled modules, relative to `root`
 */
export function notices(root, modules) {
  const folders = new Set(modules.flatMap(path => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path) ?? []))
  const texts = [...folders].sort().map(folder => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
    const entries = readdirSync(join(root, folder))
    const file = entries.find(entry => /^licen[cs]e(\.\w+)?$/i.test(entry))
    if (file === undefined)
      throw new Error(`${folder} has no licence file: find out its licence before you bundle it`)
    // The Apache licence asks for both.
    const both = [file, ...entries.filter(entry => /^notice(\.\w+)?$/i.test(entry))]
    const text = both.map(entry => readFileSync(join(root, folder, entry), 'utf8').trim()).join('\n\n')
    return `${RULE}\n${name} ${version} (${license})\n\n${text}\n`
  })
  return [HEAD, ...texts].join('\n')
}
