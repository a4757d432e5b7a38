export const dynamic = 'force-dynamic'

export default () => <p>{`pid ${process.pid}`}</p>
