from inseq.cli import main

main()
