import { Postgres } from '../processes/postgres.js'

/** The database of express.mjs: articles, and the times of the jobs that it was asked to do. */
export async function articles(): Promise<{ url: string; jobs: string[] }> {
  const jobs: string[] = []
  const { url } = await Postgres.start((sql, [value = '']) => {
    if (sql.startsWith('SELECT id, title')) return [{ id: value, title: `Article ${value}` }]
    jobs.push(value)
    return []
  })
  return { url, jobs }
}
