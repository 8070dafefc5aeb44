document.title = 'score-ingest';
